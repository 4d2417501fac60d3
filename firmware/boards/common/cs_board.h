/* What a board's support code gives to the application. */
#ifndef CS_BOARD_H
#define CS_BOARD_H

#include <stdint.h>

/* Flags of the identify reply. */
#define CS_FLAG_CLOCK_FALLBACK 0x0001u /* the PLL did not start: the core runs from the internal oscillator */

/* Clock, serial port and counter. Every wait for hardware is bounded. */
void cs_board_init(void);
/* Nonzero, and one byte, when a byte has been received. */
int cs_board_read(uint8_t *byte);
/* Sends one byte, waiting (bounded) for room. */
void cs_board_write(uint8_t byte);
/* A counter value, and the ticks since an earlier one. With the DWT counter, spans must stay below 2^32 cycles. */
uint64_t cs_board_counter(void);
uint64_t cs_board_counter_elapsed(uint64_t start);
/* Starts the counter; for the board's own use. */
void cs_counter_start(void);
/* The core clock in use, in Hz. */
uint32_t cs_board_clock_hz(void);
uint16_t cs_board_flags(void);
/* The deepest use of the stack since reset and its size, in bytes. */
uint32_t cs_board_stack_used(void);
uint32_t cs_board_stack_size(void);

#define CS_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#endif
