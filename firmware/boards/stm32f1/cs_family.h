/* STM32F10x. Registers and sequences from RM0008. */
#ifndef CS_FAMILY_H
#define CS_FAMILY_H

#include "cs_stm32.h"
#include "cs_usart_places.h"
#include "cs_usart_old.h"

#define RESET_HZ 8000000u

#define RCC_BASE 0x40021000u
#define RCC_CR CS_REGISTER(RCC_BASE + 0x00u)
#define RCC_CFGR CS_REGISTER(RCC_BASE + 0x04u)
#define RCC_APB2ENR CS_REGISTER(RCC_BASE + 0x18u)
#define RCC_APB1ENR CS_REGISTER(RCC_BASE + 0x1Cu)
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_PPRE1 8u
#define RCC_CFGR_PPRE2 11u
#define RCC_CFGR_PLLSRC_HSE (1u << 16)
#define RCC_CFGR_PLLXTPRE (1u << 17) /* HSE / 2 */

#define FLASH_ACR CS_REGISTER(0x40022000u)
#define FLASH_ACR_LATENCY 7u
#define FLASH_ACR_ON (1u << 4) /* prefetch */

#define GPIO_BASE(port) (0x40010800u + 0x400u * (uint32_t)(port))
#define GPIO_ALTERNATE_OUTPUT 0xBu /* push-pull, 50 MHz */
#define GPIO_FLOATING_INPUT 0x4u

static inline void family_prepare_pll(void)
{
    RCC_CFGR = RCC_CFGR_PLLSRC_HSE | (CS_PLL_M == 2u ? RCC_CFGR_PLLXTPRE : 0u) | ((CS_PLL_N - 2u) << 18);
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
    volatile uint32_t *const cr = &CS_REGISTER(GPIO_BASE(port) + 4u * (pin / 8u));
    const uint32_t shift = 4u * (pin % 8u);
    RCC_APB2ENR |= 1u << (2u + port);
    (void)RCC_APB2ENR;
    *cr = (*cr & ~(15u << shift)) | ((transmits ? GPIO_ALTERNATE_OUTPUT : GPIO_FLOATING_INPUT) << shift);
}

#endif
