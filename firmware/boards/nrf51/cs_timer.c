/* The nRF51 has neither DWT nor SysTick: TIMER0 in 32 bits counts the 16 MHz clock that the core runs from. */
#include "cs_board.h"

#define TIMER_BASE 0x40008000u
#define TIMER_START CS_REGISTER(TIMER_BASE + 0x000u)
#define TIMER_CLEAR CS_REGISTER(TIMER_BASE + 0x00Cu)
#define TIMER_CAPTURE0 CS_REGISTER(TIMER_BASE + 0x040u)
#define TIMER_MODE CS_REGISTER(TIMER_BASE + 0x504u)
#define TIMER_BITMODE CS_REGISTER(TIMER_BASE + 0x508u)
#define TIMER_PRESCALER CS_REGISTER(TIMER_BASE + 0x510u)
#define TIMER_CC0 CS_REGISTER(TIMER_BASE + 0x540u)
#define BITMODE_32 3u

void cs_counter_start(void)
{
    TIMER_MODE = 0;
    TIMER_BITMODE = BITMODE_32;
    TIMER_PRESCALER = 0;
    TIMER_CLEAR = 1;
    TIMER_START = 1;
}

uint64_t cs_board_counter(void)
{
    TIMER_CAPTURE0 = 1;
    return TIMER_CC0;
}

uint64_t cs_board_counter_elapsed(uint64_t start)
{
    return (uint32_t)(cs_board_counter() - start);
}
