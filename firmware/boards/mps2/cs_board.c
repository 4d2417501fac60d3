/* Arm MPS2 FPGA images AN385 (Cortex-M3), AN386 (Cortex-M4), AN500 (Cortex-M7) and AN505 (Cortex-M33): CMSDK APB UART0,
   fixed clock. */
#include "cs_board.h"
#include "cs_config.h"

#if __ARM_ARCH >= 8
#define UART_BASE 0x50200000u /* AN505: the secure alias; the core starts in the secure state and stays there */
#else
#define UART_BASE 0x40004000u
#endif
#define UART_DATA CS_REGISTER(UART_BASE + 0x00u)
#define UART_STATE CS_REGISTER(UART_BASE + 0x04u)
#define UART_CTRL CS_REGISTER(UART_BASE + 0x08u)
#define UART_BAUDDIV CS_REGISTER(UART_BASE + 0x10u)

#define STATE_TX_FULL 1u
#define STATE_RX_FULL 2u
#define SMALLEST_BAUDDIV 16u
#define WRITE_BOUND 10000000u

void cs_board_init(void)
{
    const uint32_t divider = CS_CLOCK_HZ / CS_SERIAL_BAUD;
    UART_BAUDDIV = divider < SMALLEST_BAUDDIV ? SMALLEST_BAUDDIV : divider;
    UART_CTRL = 3u; /* transmit and receive */
    cs_counter_start();
}

int cs_board_read(uint8_t *byte)
{
    if ((UART_STATE & STATE_RX_FULL) == 0u) {
        return 0;
    }
    *byte = (uint8_t)(UART_DATA & 0xFFu);
    return 1;
}

void cs_board_write(uint8_t byte)
{
    for (uint32_t i = 0; i < WRITE_BOUND && (UART_STATE & STATE_TX_FULL) != 0u; i++) {
    }
    UART_DATA = byte;
}

uint32_t cs_board_clock_hz(void)
{
    return CS_CLOCK_HZ;
}

uint16_t cs_board_flags(void)
{
    return 0;
}
