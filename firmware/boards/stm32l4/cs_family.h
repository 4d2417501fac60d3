/* STM32L4: the PLL's output R. Registers and sequences from RM0351. */
#ifndef CS_FAMILY_H
#define CS_FAMILY_H

#include "cs_stm32.h"
#include "cs_usart_places.h"
#include "cs_usart_new.h"

#define RESET_HZ 4000000u /* the MSI */

#define RCC_BASE 0x40021000u
#define RCC_CR CS_REGISTER(RCC_BASE + 0x00u)
#define RCC_CFGR CS_REGISTER(RCC_BASE + 0x08u)
#define RCC_PLLCFGR CS_REGISTER(RCC_BASE + 0x0Cu)
#define RCC_AHB2ENR CS_REGISTER(RCC_BASE + 0x4Cu)
#define RCC_APB1ENR CS_REGISTER(RCC_BASE + 0x58u)
#define RCC_APB2ENR CS_REGISTER(RCC_BASE + 0x60u)
#define RCC_CFGR_SW_PLL 3u
#define RCC_CFGR_PPRE1 8u
#define RCC_CFGR_PPRE2 11u
#define RCC_PLLCFGR_HSE 3u
#define RCC_PLLCFGR_REN (1u << 24)

#define FLASH_ACR CS_REGISTER(0x40022000u)
#define FLASH_ACR_LATENCY 7u
#define FLASH_ACR_ON ((1u << 8) | (1u << 9) | (1u << 10)) /* prefetch, instruction and data cache */

#define GPIO_BASE(port) (0x48000000u + 0x400u * (uint32_t)(port))

/* The voltage range is 1 after reset, as 80 MHz needs it. */
static inline void family_prepare_pll(void)
{
    RCC_PLLCFGR = RCC_PLLCFGR_HSE | ((CS_PLL_M - 1u) << 4) | (CS_PLL_N << 8) | ((CS_PLL_P / 2u - 1u) << 25) |
                  RCC_PLLCFGR_REN;
}

static inline int family_boost(void)
{
    return 1;
}

static inline void family_caches(void)
{
}

static inline void family_pin(uint32_t port, uint32_t pin, int transmits)
{
    (void)transmits;
    RCC_AHB2ENR |= 1u << port;
    (void)RCC_AHB2ENR;
    alternate_function(GPIO_BASE(port), pin, CS_SERIAL_AF);
}

#endif
