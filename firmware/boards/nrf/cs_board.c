/* Nordic nRF51 and nRF52: crystal oscillator and the UART without DMA, which both series have. Registers from the nRF51
   Series Reference Manual v3.0 and the nRF52840 Product Specification v1.7; what differs is in cs_family.h. */
#include "cs_board.h"
#include "cs_config.h"
#include "cs_family.h"

#define WAIT_BOUND 1000000u
#define WRITE_BOUND 10000000u

#define CLOCK_HFCLKSTART CS_REGISTER(0x40000000u)
#define CLOCK_HFCLKSTARTED CS_REGISTER(0x40000100u)

#define UART_BASE 0x40002000u
#define UART_STARTRX CS_REGISTER(UART_BASE + 0x000u)
#define UART_STARTTX CS_REGISTER(UART_BASE + 0x008u)
#define UART_RXDRDY CS_REGISTER(UART_BASE + 0x108u)
#define UART_TXDRDY CS_REGISTER(UART_BASE + 0x11Cu)
#define UART_ENABLE CS_REGISTER(UART_BASE + 0x500u)
#define UART_PSELTXD CS_REGISTER(UART_BASE + 0x50Cu)
#define UART_PSELRXD CS_REGISTER(UART_BASE + 0x514u)
#define UART_RXD CS_REGISTER(UART_BASE + 0x518u)
#define UART_TXD CS_REGISTER(UART_BASE + 0x51Cu)
#define UART_BAUDRATE CS_REGISTER(UART_BASE + 0x524u)
#define UART_CONFIG CS_REGISTER(UART_BASE + 0x56Cu)
#define UART_ENABLED 4u

#define GPIO_OUTSET(port) CS_REGISTER(0x50000508u + 0x300u * (port))
#define GPIO_PIN_CNF(port, pin) CS_REGISTER(0x50000700u + 0x300u * (port) + 4u * (pin))
#define PIN_OUTPUT 3u /* output, input buffer disconnected */
#define PIN_INPUT 0u
#define PSEL(port, pin) (((port) << 5) | (pin))

#if CS_SERIAL_UNIT != 0
#error "this UART is not supported"
#endif
#if CS_SERIAL_BAUD == 9600
#define BAUD_SETTING 0x00275000u
#elif CS_SERIAL_BAUD == 38400
#define BAUD_SETTING FAMILY_BAUD_38400
#elif CS_SERIAL_BAUD == 115200
#define BAUD_SETTING FAMILY_BAUD_115200
#else
#error "the board file's baud rate is not supported: take 9600, 38400 or 115200"
#endif

static uint16_t flags;
static uint8_t sending;

void cs_board_init(void)
{
    uint32_t i = 0;
    flags = 0;
    sending = 0;
    /* The core runs at its full rate from the internal oscillator too; the crystal makes rate and baud exact. */
    CLOCK_HFCLKSTARTED = 0;
    CLOCK_HFCLKSTART = 1;
    while (CLOCK_HFCLKSTARTED == 0u) {
        if (i++ == WAIT_BOUND) {
            flags = CS_FLAG_CLOCK_FALLBACK;
            break;
        }
    }
    cs_family_enable_caches();
    GPIO_OUTSET(CS_SERIAL_TX_PORT) = 1u << CS_SERIAL_TX_PIN; /* idle level */
    GPIO_PIN_CNF(CS_SERIAL_TX_PORT, CS_SERIAL_TX_PIN) = PIN_OUTPUT;
    GPIO_PIN_CNF(CS_SERIAL_RX_PORT, CS_SERIAL_RX_PIN) = PIN_INPUT;
    UART_PSELTXD = PSEL(CS_SERIAL_TX_PORT, CS_SERIAL_TX_PIN);
    UART_PSELRXD = PSEL(CS_SERIAL_RX_PORT, CS_SERIAL_RX_PIN);
    UART_BAUDRATE = BAUD_SETTING;
    UART_CONFIG = 0;
    UART_ENABLE = UART_ENABLED;
    UART_RXDRDY = 0;
    UART_TXDRDY = 0;
    UART_STARTRX = 1;
    UART_STARTTX = 1;
    cs_counter_start();
}

int cs_board_read(uint8_t *byte)
{
    if (UART_RXDRDY == 0u) {
        return 0;
    }
    UART_RXDRDY = 0;
    *byte = (uint8_t)(UART_RXD & 0xFFu);
    return 1;
}

/* TXDRDY tells that the byte before this one has left. */
void cs_board_write(uint8_t byte)
{
    for (uint32_t i = 0; sending != 0u && i < WRITE_BOUND && UART_TXDRDY == 0u; i++) {
    }
    UART_TXDRDY = 0;
    UART_TXD = byte;
    sending = 1;
}

uint32_t cs_board_clock_hz(void)
{
    return CS_CLOCK_HZ;
}

uint16_t cs_board_flags(void)
{
    return flags;
}
