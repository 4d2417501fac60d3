/* The counter read around an inference: DWT CYCCNT where the core has it, SysTick or the board's own elsewhere. */
#include "cs_board.h"
#include "cs_config.h"

#if defined(CS_COUNTER_DWT)

#define DEMCR CS_REGISTER(0xE000EDFCu)
#define DWT_CTRL CS_REGISTER(0xE0001000u)
#define DWT_CYCCNT CS_REGISTER(0xE0001004u)
#define DWT_LAR CS_REGISTER(0xE0001FB0u)

void cs_counter_start(void)
{
    DEMCR |= 1u << 24; /* TRCENA */
    DWT_LAR = 0xC5ACCE55u; /* Cortex-M7 locks the DWT against software; the M4 ignores this */
    DWT_CYCCNT = 0;
    DWT_CTRL |= 1u; /* CYCCNTENA */
}

uint64_t cs_board_counter(void)
{
    return DWT_CYCCNT;
}

uint64_t cs_board_counter_elapsed(uint64_t start)
{
    return (uint32_t)(DWT_CYCCNT - (uint32_t)start);
}

#elif defined(CS_COUNTER_SYSTICK)

#define SYST_CSR CS_REGISTER(0xE000E010u)
#define SYST_RVR CS_REGISTER(0xE000E014u)
#define SYST_CVR CS_REGISTER(0xE000E018u)
#define TICKS_PER_WRAP 0x01000000u

static volatile uint32_t wraps;

void SysTick_Handler(void);
void SysTick_Handler(void)
{
    wraps++;
}

void cs_counter_start(void)
{
    SYST_RVR = TICKS_PER_WRAP - 1u;
    SYST_CVR = 0;
    SYST_CSR = 7u; /* processor clock, interrupt on wrap, enabled */
}

uint64_t cs_board_counter(void)
{
    uint32_t high;
    uint32_t low;
    do {
        high = wraps;
        low = SYST_CVR;
    } while (high != wraps);
    return (uint64_t)high * TICKS_PER_WRAP + (TICKS_PER_WRAP - 1u - low);
}

uint64_t cs_board_counter_elapsed(uint64_t start)
{
    return cs_board_counter() - start;
}

#elif !defined(CS_COUNTER_BOARD) /* the board's own support has it */
#error "the board file names no counter"
#endif
