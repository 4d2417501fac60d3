/* STM32F10x: HSE -> PLL, one USART. Registers and sequences from RM0008. */
#include "cs_board.h"
#include "cs_config.h"
#include "cs_stm32.h"

#define HSI_HZ 8000000u

#define RCC_BASE 0x40021000u
#define RCC_CR CS_REGISTER(RCC_BASE + 0x00u)
#define RCC_CFGR CS_REGISTER(RCC_BASE + 0x04u)
#define RCC_APB2ENR CS_REGISTER(RCC_BASE + 0x18u)
#define RCC_APB1ENR CS_REGISTER(RCC_BASE + 0x1Cu)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_CFGR_SW 3u
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SWS (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)
#define RCC_CFGR_PLLSRC_HSE (1u << 16)
#define RCC_CFGR_PLLXTPRE (1u << 17) /* HSE / 2 */

#define FLASH_ACR CS_REGISTER(0x40022000u)
#define FLASH_ACR_LATENCY 7u
#define FLASH_ACR_PREFETCH (1u << 4)

#define GPIO_BASE(port) (0x40010800u + 0x400u * (uint32_t)(port))
#define GPIO_CR(port, pin) CS_REGISTER(GPIO_BASE(port) + 4u * ((uint32_t)(pin) / 8u))
#define GPIO_ALTERNATE_OUTPUT 0xBu /* push-pull, 50 MHz */
#define GPIO_FLOATING_INPUT 0x4u

#if CS_SERIAL_UNIT == 1
#define USART_BASE 0x40013800u
#define USART_ENABLE() (RCC_APB2ENR |= 1u << 14)
#define USART_APB2 1
#elif CS_SERIAL_UNIT == 2
#define USART_BASE 0x40004400u
#define USART_ENABLE() (RCC_APB1ENR |= 1u << 17)
#define USART_APB2 0
#elif CS_SERIAL_UNIT == 3
#define USART_BASE 0x40004800u
#define USART_ENABLE() (RCC_APB1ENR |= 1u << 18)
#define USART_APB2 0
#else
#error "this USART is not supported"
#endif
#define USART_SR CS_REGISTER(USART_BASE + 0x00u)
#define USART_DR CS_REGISTER(USART_BASE + 0x04u) /* reading status, then data also clears an overrun */
#define USART_BRR CS_REGISTER(USART_BASE + 0x08u)
#define USART_CR1 CS_REGISTER(USART_BASE + 0x0Cu)
#define USART_CR1_ON ((1u << 13) | (1u << 2) | (1u << 3)) /* UE, RE, TE */
#define USART_RXNE (1u << 5)
#define USART_TXE (1u << 7)

static uint32_t clock_hz;
static uint16_t flags;

static int start_pll(void)
{
    RCC_CR |= (CS_HSE_BYPASS ? RCC_CR_HSEBYP : 0u);
    RCC_CR |= RCC_CR_HSEON;
    if (!wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY)) {
        return 0;
    }
    FLASH_ACR = FLASH_ACR_PREFETCH | CS_FLASH_WAIT_STATES;
    if (!wait_for(&FLASH_ACR, FLASH_ACR_LATENCY, CS_FLASH_WAIT_STATES)) {
        return 0;
    }
    RCC_CFGR = RCC_CFGR_PLLSRC_HSE | (CS_PLL_M == 2u ? RCC_CFGR_PLLXTPRE : 0u) | ((CS_PLL_N - 2u) << 18) |
               (prescaler_bits(CS_APB1_DIVIDER) << 8) | (prescaler_bits(CS_APB2_DIVIDER) << 11);
    RCC_CR |= RCC_CR_PLLON;
    if (!wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY)) {
        return 0;
    }
    RCC_CFGR |= RCC_CFGR_SW_PLL;
    return wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SWS_PLL);
}

static void set_pin(uint32_t port, uint32_t pin, uint32_t mode)
{
    const uint32_t shift = 4u * (pin % 8u);
    RCC_APB2ENR |= 1u << (2u + port);
    (void)RCC_APB2ENR;
    GPIO_CR(port, pin) = (GPIO_CR(port, pin) & ~(15u << shift)) | (mode << shift);
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
        clock_hz = HSI_HZ;
        peripheral_hz = HSI_HZ;
        flags = CS_FLAG_CLOCK_FALLBACK;
    }
    set_pin(CS_SERIAL_TX_PORT, CS_SERIAL_TX_PIN, GPIO_ALTERNATE_OUTPUT);
    set_pin(CS_SERIAL_RX_PORT, CS_SERIAL_RX_PIN, GPIO_FLOATING_INPUT);
    USART_ENABLE();
    (void)RCC_APB1ENR;
    USART_CR1 = 0;
    USART_BRR = (peripheral_hz + CS_SERIAL_BAUD / 2u) / CS_SERIAL_BAUD;
    USART_CR1 = USART_CR1_ON;
    cs_counter_start();
}

int cs_board_read(uint8_t *byte)
{
    if ((USART_SR & USART_RXNE) == 0u) {
        return 0;
    }
    *byte = (uint8_t)(USART_DR & 0xFFu);
    return 1;
}

void cs_board_write(uint8_t byte)
{
    for (uint32_t i = 0; i < WRITE_BOUND && (USART_SR & USART_TXE) == 0u; i++) {
    }
    USART_DR = byte;
}

uint32_t cs_board_clock_hz(void)
{
    return clock_hz;
}

uint16_t cs_board_flags(void)
{
    return flags;
}
