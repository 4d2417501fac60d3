/* Cycles from SysTick, which has 24 bits, and the microsecond timer, which tells how often SysTick wrapped between. */
#include "cs_board.h"
#include "cs_config.h"

#define SYST_CSR CS_REGISTER(0xE000E010u)
#define SYST_RVR CS_REGISTER(0xE000E014u)
#define SYST_CVR CS_REGISTER(0xE000E018u)
#define SYST_MASK 0x00FFFFFFu

#define WATCHDOG_TICK CS_REGISTER(0x4005802Cu)
#define WATCHDOG_TICK_ENABLE (1u << 9)
#define TIMER_RAWL CS_REGISTER(0x40054028u)
#define REFERENCE_PER_TICK (CS_HSE_HZ / 1000000u) /* 1 us from the crystal */

void cs_counter_start(void)
{
    WATCHDOG_TICK = WATCHDOG_TICK_ENABLE | REFERENCE_PER_TICK;
    SYST_RVR = SYST_MASK;
    SYST_CVR = 0;
    SYST_CSR = 5u; /* processor clock, no interrupt */
}

/* Ticks in the upper, SysTick (counting up) in the lower 24 bits. */
uint64_t cs_board_counter(void)
{
    const uint32_t ticks = TIMER_RAWL;
    return ((uint64_t)ticks << 24) | (SYST_MASK - (SYST_CVR & SYST_MASK));
}

/* The number of cycles that agrees with SysTick modulo 2^24 and is nearest to what the timer says. */
uint64_t cs_board_counter_elapsed(uint64_t start)
{
    const uint64_t now = cs_board_counter();
    const uint32_t ticks = (uint32_t)(now >> 24) - (uint32_t)(start >> 24);
    const uint32_t low = (uint32_t)(now - start) & SYST_MASK;
    /* Without the PLL, core and reference run from the same oscillator. */
    const uint32_t cycles_per_tick =
        (cs_board_flags() & CS_FLAG_CLOCK_FALLBACK) != 0u ? REFERENCE_PER_TICK : CS_CLOCK_HZ / 1000000u;
    const uint64_t rough = (uint64_t)ticks * cycles_per_tick;
    const uint32_t off = (low - (uint32_t)rough) & SYST_MASK;
    if (off <= SYST_MASK / 2u) {
        return rough + off;
    }
    const uint64_t back = (uint64_t)(SYST_MASK + 1u) - off;
    return rough > back ? rough - back : low;
}
