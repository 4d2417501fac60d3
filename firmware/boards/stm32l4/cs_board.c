/* STM32L4: HSE -> PLL (output R), one USART. Registers and sequences from RM0351. */
#include "cs_board.h"
#include "cs_config.h"
#include "cs_stm32.h"

#define MSI_HZ 4000000u

#define RCC_BASE 0x40021000u
#define RCC_CR CS_REGISTER(RCC_BASE + 0x00u)
#define RCC_CFGR CS_REGISTER(RCC_BASE + 0x08u)
#define RCC_PLLCFGR CS_REGISTER(RCC_BASE + 0x0Cu)
#define RCC_AHB2ENR CS_REGISTER(RCC_BASE + 0x4Cu)
#define RCC_APB1ENR1 CS_REGISTER(RCC_BASE + 0x58u)
#define RCC_APB2ENR CS_REGISTER(RCC_BASE + 0x60u)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_CFGR_SW 3u
#define RCC_CFGR_SW_PLL 3u
#define RCC_CFGR_SWS (3u << 2)
#define RCC_CFGR_SWS_PLL (3u << 2)
#define RCC_PLLCFGR_HSE 3u
#define RCC_PLLCFGR_REN (1u << 24)

#define FLASH_ACR CS_REGISTER(0x40022000u)
#define FLASH_ACR_LATENCY 7u
#define FLASH_ACR_CACHES ((1u << 8) | (1u << 9) | (1u << 10)) /* prefetch, instruction and data cache */

#define GPIO_BASE(port) (0x48000000u + 0x400u * (uint32_t)(port))
#define GPIO_MODER(port) CS_REGISTER(GPIO_BASE(port) + 0x00u)
#define GPIO_AFR(port, pin) CS_REGISTER(GPIO_BASE(port) + 0x20u + 4u * ((uint32_t)(pin) / 8u))

#if CS_SERIAL_UNIT == 1
#define USART_BASE 0x40013800u
#define USART_ENABLE() (RCC_APB2ENR |= 1u << 14)
#define USART_APB2 1
#elif CS_SERIAL_UNIT == 2
#define USART_BASE 0x40004400u
#define USART_ENABLE() (RCC_APB1ENR1 |= 1u << 17)
#define USART_APB2 0
#elif CS_SERIAL_UNIT == 3
#define USART_BASE 0x40004800u
#define USART_ENABLE() (RCC_APB1ENR1 |= 1u << 18)
#define USART_APB2 0
#else
#error "this USART is not supported"
#endif
#define USART_CR1 CS_REGISTER(USART_BASE + 0x00u)
#define USART_CR3 CS_REGISTER(USART_BASE + 0x08u)
#define USART_BRR CS_REGISTER(USART_BASE + 0x0Cu)
#define USART_ISR CS_REGISTER(USART_BASE + 0x1Cu)
#define USART_RDR CS_REGISTER(USART_BASE + 0x24u)
#define USART_TDR CS_REGISTER(USART_BASE + 0x28u)
#define USART_CR1_ON ((1u << 0) | (1u << 2) | (1u << 3)) /* UE, RE, TE */
#define USART_CR3_OVRDIS (1u << 12) /* a byte lost to an overrun shows as a bad CRC; it must not stop reception */
#define USART_RXNE (1u << 5)
#define USART_TXE (1u << 7)

static uint32_t clock_hz;
static uint16_t flags;

/* The voltage range is 1 after reset, as 80 MHz needs it. */
static int start_pll(void)
{
    RCC_CR |= (CS_HSE_BYPASS ? RCC_CR_HSEBYP : 0u);
    RCC_CR |= RCC_CR_HSEON;
    if (!wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY)) {
        return 0;
    }
    RCC_PLLCFGR = RCC_PLLCFGR_HSE | ((CS_PLL_M - 1u) << 4) | (CS_PLL_N << 8) | ((CS_PLL_P / 2u - 1u) << 25) |
                  RCC_PLLCFGR_REN;
    RCC_CR |= RCC_CR_PLLON;
    FLASH_ACR = FLASH_ACR_CACHES | CS_FLASH_WAIT_STATES;
    if (!wait_for(&FLASH_ACR, FLASH_ACR_LATENCY, CS_FLASH_WAIT_STATES)) {
        return 0;
    }
    if (!wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY)) {
        return 0;
    }
    RCC_CFGR = (prescaler_bits(CS_APB1_DIVIDER) << 8) | (prescaler_bits(CS_APB2_DIVIDER) << 11);
    RCC_CFGR |= RCC_CFGR_SW_PLL;
    return wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SWS_PLL);
}

static void alternate_function(uint32_t port, uint32_t pin)
{
    RCC_AHB2ENR |= 1u << port;
    (void)RCC_AHB2ENR;
    GPIO_AFR(port, pin) =
        (GPIO_AFR(port, pin) & ~(15u << (4u * (pin % 8u)))) | ((uint32_t)CS_SERIAL_AF << (4u * (pin % 8u)));
    GPIO_MODER(port) = (GPIO_MODER(port) & ~(3u << (2u * pin))) | (2u << (2u * pin));
}

void cs_board_init(void)
{
    uint32_t peripheral_hz;
    if (start_pll()) {
        clock_hz = CS_CLOCK_HZ;
        peripheral_hz = CS_CLOCK_HZ / (USART_APB2 ? CS_APB2_DIVIDER : CS_APB1_DIVIDER);
        flags = 0;
    } else {
        RCC_CFGR &= ~RCC_CFGR_SW; /* back to the internal oscillator, undivided */
        RCC_CFGR = 0;
        clock_hz = MSI_HZ;
        peripheral_hz = MSI_HZ;
        flags = CS_FLAG_CLOCK_FALLBACK;
    }
    alternate_function(CS_SERIAL_TX_PORT, CS_SERIAL_TX_PIN);
    alternate_function(CS_SERIAL_RX_PORT, CS_SERIAL_RX_PIN);
    USART_ENABLE();
    (void)RCC_APB1ENR1;
    USART_CR1 = 0;
    USART_CR3 = USART_CR3_OVRDIS;
    USART_BRR = (peripheral_hz + CS_SERIAL_BAUD / 2u) / CS_SERIAL_BAUD;
    USART_CR1 = USART_CR1_ON;
    cs_counter_start();
}

int cs_board_read(uint8_t *byte)
{
    if ((USART_ISR & USART_RXNE) == 0u) {
        return 0;
    }
    *byte = (uint8_t)(USART_RDR & 0xFFu);
    return 1;
}

void cs_board_write(uint8_t byte)
{
    for (uint32_t i = 0; i < WRITE_BOUND && (USART_ISR & USART_TXE) == 0u; i++) {
    }
    USART_TDR = byte;
}

uint32_t cs_board_clock_hz(void)
{
    return clock_hz;
}

uint16_t cs_board_flags(void)
{
    return flags;
}
