/* Bits that are the same in all STM32 families, and what their start-up code shares. */
#ifndef CS_STM32_H
#define CS_STM32_H

#include "cs_board.h"
#include "cs_config.h"

#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_CFGR_SW 3u
#define RCC_CFGR_SWS (3u << 2)
#define USART_RXNE (1u << 5)
#define USART_TXE (1u << 7)

#define WAIT_BOUND 100000u
#define WRITE_BOUND 10000000u

static inline int wait_for(volatile uint32_t *address, uint32_t mask, uint32_t value)
{
    for (uint32_t i = 0; i < WAIT_BOUND; i++) {
        if ((*address & mask) == value) {
            return 1;
        }
    }
    return 0;
}

/* The PPRE field for a divider of 1, 2, 4, 8 or 16. */
static inline uint32_t prescaler_bits(uint32_t divider)
{
    uint32_t bits = 3u;
    while (divider > 1u) {
        divider >>= 1;
        bits++;
    }
    return bits == 3u ? 0u : bits;
}

/* A pin of a GPIO port with MODER at offset 0 and AFRL, AFRH at 0x20 (all but the STM32F1). */
static inline void alternate_function(uint32_t gpio, uint32_t pin, uint32_t function)
{
    volatile uint32_t *const afr = &CS_REGISTER(gpio + 0x20u + 4u * (pin / 8u));
    const uint32_t shift = 4u * (pin % 8u);
    *afr = (*afr & ~(15u << shift)) | (function << shift);
    CS_REGISTER(gpio) = (CS_REGISTER(gpio) & ~(3u << (2u * pin))) | (2u << (2u * pin));
}

#endif
