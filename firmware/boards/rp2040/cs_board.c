/* RP2040: crystal -> PLL_SYS -> clk_sys and clk_peri, UART0 (PL011). Registers and sequences from the RP2040 data sheet
   (chapters 2.14 to 2.19 and 4.2). */
#include "cs_board.h"
#include "cs_config.h"

#define WAIT_BOUND 1000000u
#define WRITE_BOUND 10000000u
#define ROSC_HZ 6500000u /* nominal; the ring oscillator is not exact enough for a serial port */

#define ATOMIC_SET 0x2000u
#define ATOMIC_CLEAR 0x3000u

#define RESETS_BASE 0x4000C000u
#define RESETS_RESET_CLEAR CS_REGISTER(RESETS_BASE + ATOMIC_CLEAR)
#define RESETS_DONE CS_REGISTER(RESETS_BASE + 0x8u)
#define RESET_IO_BANK0 (1u << 5)
#define RESET_PADS_BANK0 (1u << 8)
#define RESET_PLL_SYS (1u << 12)
#define RESET_UART0 (1u << 22)

#define XOSC_BASE 0x40024000u
#define XOSC_CTRL CS_REGISTER(XOSC_BASE + 0x00u)
#define XOSC_STATUS CS_REGISTER(XOSC_BASE + 0x04u)
#define XOSC_STARTUP CS_REGISTER(XOSC_BASE + 0x0Cu)
#define XOSC_ENABLE ((0xFABu << 12) | 0xAA0u) /* 1 to 15 MHz */
#define XOSC_STABLE (1u << 31)

#define PLL_BASE 0x40028000u
#define PLL_CS CS_REGISTER(PLL_BASE + 0x0u)
#define PLL_PWR CS_REGISTER(PLL_BASE + 0x4u)
#define PLL_FBDIV CS_REGISTER(PLL_BASE + 0x8u)
#define PLL_PRIM CS_REGISTER(PLL_BASE + 0xCu)
#define PLL_LOCK (1u << 31)
#define PLL_PWR_PD (1u << 0)
#define PLL_PWR_POSTDIVPD (1u << 3)
#define PLL_PWR_VCOPD (1u << 5)

#define CLOCKS_BASE 0x40008000u
#define CLK_REF_CTRL CS_REGISTER(CLOCKS_BASE + 0x30u)
#define CLK_REF_SELECTED CS_REGISTER(CLOCKS_BASE + 0x38u)
#define CLK_SYS_CTRL CS_REGISTER(CLOCKS_BASE + 0x3Cu)
#define CLK_SYS_SELECTED CS_REGISTER(CLOCKS_BASE + 0x44u)
#define CLK_PERI_CTRL CS_REGISTER(CLOCKS_BASE + 0x48u)
#define CLK_REF_XOSC 2u
#define CLK_SYS_AUX 1u /* with AUXSRC 0: PLL_SYS */
#define CLK_PERI_ON (1u << 11) /* with AUXSRC 0: clk_sys */

#define IO_CTRL(pin) CS_REGISTER(0x40014000u + 8u * (uint32_t)(pin) + 4u)
#define PADS_GPIO(pin) CS_REGISTER(0x4001C000u + 4u * (uint32_t)(pin) + 4u)
#define PAD_INPUT_ENABLE (1u << 6)
#define PAD_OUTPUT_DISABLE (1u << 7)

#if CS_SERIAL_UNIT == 0
#define UART_BASE 0x40034000u
#else
#error "this UART is not supported"
#endif
#define UART_DR CS_REGISTER(UART_BASE + 0x00u)
#define UART_FR CS_REGISTER(UART_BASE + 0x18u)
#define UART_IBRD CS_REGISTER(UART_BASE + 0x24u)
#define UART_FBRD CS_REGISTER(UART_BASE + 0x28u)
#define UART_LCR_H CS_REGISTER(UART_BASE + 0x2Cu)
#define UART_CR CS_REGISTER(UART_BASE + 0x30u)
#define UART_FR_RXFE (1u << 4)
#define UART_FR_TXFF (1u << 5)
#define UART_8_BITS_FIFO (0x70u)
#define UART_ON (1u | (1u << 8) | (1u << 9))

static uint32_t clock_hz;
static uint16_t flags;

static int wait_for(volatile uint32_t *address, uint32_t mask)
{
    for (uint32_t i = 0; i < WAIT_BOUND; i++) {
        if ((*address & mask) == mask) {
            return 1;
        }
    }
    return 0;
}

static void release(uint32_t blocks)
{
    RESETS_RESET_CLEAR = blocks;
    (void)wait_for(&RESETS_DONE, blocks);
}

static int start_pll(void)
{
    XOSC_STARTUP = (CS_HSE_HZ / 1000u + 128u) / 256u; /* 1 ms */
    XOSC_CTRL = XOSC_ENABLE;
    if (!wait_for(&XOSC_STATUS, XOSC_STABLE)) {
        return 0;
    }
    CLK_REF_CTRL = CLK_REF_XOSC;
    if (!wait_for(&CLK_REF_SELECTED, 1u << CLK_REF_XOSC)) {
        return 0;
    }
    release(RESET_PLL_SYS);
    PLL_CS = CS_PLL_M;
    PLL_FBDIV = CS_PLL_N;
    PLL_PWR &= ~(PLL_PWR_PD | PLL_PWR_VCOPD);
    if (!wait_for(&PLL_CS, PLL_LOCK)) {
        return 0;
    }
    PLL_PRIM = (CS_PLL_P << 16) | (CS_PLL_Q << 12);
    PLL_PWR &= ~PLL_PWR_POSTDIVPD;
    CLK_SYS_CTRL = CLK_SYS_AUX;
    return wait_for(&CLK_SYS_SELECTED, 1u << CLK_SYS_AUX);
}

void cs_board_init(void)
{
    if (start_pll()) {
        clock_hz = CS_CLOCK_HZ;
        flags = 0;
    } else {
        CLK_SYS_CTRL = 0;
        clock_hz = ROSC_HZ;
        flags = CS_FLAG_CLOCK_FALLBACK;
    }
    CLK_PERI_CTRL = CLK_PERI_ON;
    release(RESET_IO_BANK0 | RESET_PADS_BANK0 | RESET_UART0);
    const uint32_t divider = (8u * clock_hz / CS_SERIAL_BAUD + 1u) / 2u; /* in 64ths */
    UART_IBRD = divider >> 6;
    UART_FBRD = divider & 63u;
    UART_LCR_H = UART_8_BITS_FIFO; /* latches the divider */
    UART_CR = UART_ON;
    PADS_GPIO(CS_SERIAL_RX_PIN) = (PADS_GPIO(CS_SERIAL_RX_PIN) | PAD_INPUT_ENABLE) & ~PAD_OUTPUT_DISABLE;
    PADS_GPIO(CS_SERIAL_TX_PIN) &= ~PAD_OUTPUT_DISABLE;
    IO_CTRL(CS_SERIAL_TX_PIN) = CS_SERIAL_AF;
    IO_CTRL(CS_SERIAL_RX_PIN) = CS_SERIAL_AF;
    cs_counter_start();
}

int cs_board_read(uint8_t *byte)
{
    if ((UART_FR & UART_FR_RXFE) != 0u) {
        return 0;
    }
    *byte = (uint8_t)(UART_DR & 0xFFu);
    return 1;
}

void cs_board_write(uint8_t byte)
{
    for (uint32_t i = 0; i < WRITE_BOUND && (UART_FR & UART_FR_TXFF) != 0u; i++) {
    }
    UART_DR = byte;
}

uint32_t cs_board_clock_hz(void)
{
    return clock_hz;
}

uint16_t cs_board_flags(void)
{
    return flags;
}
