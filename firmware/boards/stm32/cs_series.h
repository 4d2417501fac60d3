/* What STM32F2, STM32F4 and STM32F7 share: clock tree, power, pins and places of the USARTs. Registers and sequences from
   RM0385 (STM32F74x/75x), RM0390 (STM32F446), RM0368 (STM32F401), RM0090 (STM32F405/407) and RM0033 (STM32F2). */
#ifndef CS_SERIES_H
#define CS_SERIES_H

#include "cs_stm32.h"

#define RESET_HZ 16000000u

#define RCC_BASE 0x40023800u
#define RCC_CR CS_REGISTER(RCC_BASE + 0x00u)
#define RCC_PLLCFGR CS_REGISTER(RCC_BASE + 0x04u)
#define RCC_CFGR CS_REGISTER(RCC_BASE + 0x08u)
#define RCC_AHB1ENR CS_REGISTER(RCC_BASE + 0x30u)
#define RCC_APB1ENR CS_REGISTER(RCC_BASE + 0x40u)
#define RCC_APB2ENR CS_REGISTER(RCC_BASE + 0x44u)
#define RCC_APB1ENR_PWREN (1u << 28)
#define RCC_PLLCFGR_HSE (1u << 22)
/* Bits 30:28 are PLLR on some parts and reserved on others; all reset to 2. */
#define RCC_PLLCFGR_RESET_R (2u << 28)
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_PPRE1 10u
#define RCC_CFGR_PPRE2 13u

#define PWR_CR CS_REGISTER(0x40007000u)
#define PWR_CSR CS_REGISTER(0x40007004u)
#define PWR_CR_VOS (3u << 14)
#define PWR_CR_ODEN (1u << 16)
#define PWR_CR_ODSWEN (1u << 17)
#define PWR_CSR_ODRDY (1u << 16)
#define PWR_CSR_ODSWRDY (1u << 17)

#define FLASH_ACR CS_REGISTER(0x40023C00u)
#define FLASH_ACR_LATENCY 15u

#define GPIO_BASE(port) (0x40020000u + 0x400u * (uint32_t)(port))

/* USART1 and USART6 are on APB2, the others on APB1. */
#if CS_SERIAL_UNIT == 1
#define USART_BASE 0x40011000u
#define USART_CLOCK (1u << 4)
#define USART_APB2 1
#elif CS_SERIAL_UNIT == 2
#define USART_BASE 0x40004400u
#define USART_CLOCK (1u << 17)
#define USART_APB2 0
#elif CS_SERIAL_UNIT == 3
#define USART_BASE 0x40004800u
#define USART_CLOCK (1u << 18)
#define USART_APB2 0
#elif CS_SERIAL_UNIT == 6
#define USART_BASE 0x40011400u
#define USART_CLOCK (1u << 5)
#define USART_APB2 1
#else
#error "this USART is not supported"
#endif

static inline void family_prepare_pll(void)
{
    RCC_APB1ENR |= RCC_APB1ENR_PWREN;
    (void)RCC_APB1ENR;
    /* Scale 1, which over-drive needs; it can only change while the PLL is off. Elsewhere the reset value is right. */
    PWR_CR |= CS_OVERDRIVE ? PWR_CR_VOS : 0u;
    RCC_PLLCFGR = CS_PLL_M | (CS_PLL_N << 6) | ((CS_PLL_P / 2u - 1u) << 16) | RCC_PLLCFGR_HSE | (CS_PLL_Q << 24) |
                  RCC_PLLCFGR_RESET_R;
}

static inline int family_boost(void)
{
    if (CS_OVERDRIVE) {
        PWR_CR |= PWR_CR_ODEN;
        if (!wait_for(&PWR_CSR, PWR_CSR_ODRDY, PWR_CSR_ODRDY)) {
            return 0;
        }
        PWR_CR |= PWR_CR_ODSWEN;
        return wait_for(&PWR_CSR, PWR_CSR_ODSWRDY, PWR_CSR_ODSWRDY);
    }
    return 1;
}

static inline void family_pin(uint32_t port, uint32_t pin, int transmits)
{
    (void)transmits;
    RCC_AHB1ENR |= 1u << port;
    (void)RCC_AHB1ENR;
    alternate_function(GPIO_BASE(port), pin, CS_SERIAL_AF);
}

#endif
