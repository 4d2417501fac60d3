/* What the start-up code of all STM32 families shares. */
#ifndef CS_STM32_H
#define CS_STM32_H

#include <stdint.h>

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

#endif
