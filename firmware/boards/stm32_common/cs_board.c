/* All STM32: HSE -> PLL, one USART. The families' registers, and what differs in the sequence, are in cs_family.h, which has

     RESET_HZ           the core's clock after reset, without the PLL
     RCC_CR, RCC_CFGR, RCC_APB1ENR, RCC_APB2ENR, RCC_CFGR_SW_PLL; RCC_CFGR_PPRE1, RCC_CFGR_PPRE2: the prescalers' places
     FLASH_ACR, FLASH_ACR_LATENCY, FLASH_ACR_ON (caches and prefetch)
     USART_BASE, USART_CLOCK (its enable bit), USART_APB2 (0: on APB1), and cs_usart_old.h or cs_usart_new.h
     family_prepare_pll()  before the PLL is started
     family_boost()        between its start and the switch to it; 0 where the hardware does not follow
     family_caches(), family_pin(port, pin, transmits) */
#include "cs_board.h"
#include "cs_config.h"
#include "cs_family.h"
#include "cs_stm32.h"

static uint32_t clock_hz;
static uint16_t flags;

static int start_pll(void)
{
    RCC_CR |= (CS_HSE_BYPASS ? RCC_CR_HSEBYP : 0u);
    RCC_CR |= RCC_CR_HSEON;
    if (!wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY)) {
        return 0;
    }
    family_prepare_pll();
    RCC_CR |= RCC_CR_PLLON;
    if (!family_boost()) {
        return 0;
    }
    FLASH_ACR = FLASH_ACR_ON | CS_FLASH_WAIT_STATES;
    if (!wait_for(&FLASH_ACR, FLASH_ACR_LATENCY, CS_FLASH_WAIT_STATES)) {
        return 0;
    }
    if (!wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY)) {
        return 0;
    }
    RCC_CFGR |=
        (prescaler_bits(CS_APB1_DIVIDER) << RCC_CFGR_PPRE1) | (prescaler_bits(CS_APB2_DIVIDER) << RCC_CFGR_PPRE2);
    RCC_CFGR |= RCC_CFGR_SW_PLL;
    return wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SW_PLL << 2);
}

void cs_board_init(void)
{
    volatile uint32_t *const usart_enable = USART_APB2 ? &RCC_APB2ENR : &RCC_APB1ENR;
    uint32_t peripheral_hz;
    if (start_pll()) {
        clock_hz = CS_CLOCK_HZ;
        peripheral_hz = CS_CLOCK_HZ / (USART_APB2 ? CS_APB2_DIVIDER : CS_APB1_DIVIDER);
        flags = 0;
    } else {
        RCC_CFGR &= ~RCC_CFGR_SW; /* back to the internal oscillator, undivided */
        RCC_CFGR = 0;
        clock_hz = RESET_HZ;
        peripheral_hz = RESET_HZ;
        flags = CS_FLAG_CLOCK_FALLBACK;
    }
    family_caches();
    family_pin(CS_SERIAL_TX_PORT, CS_SERIAL_TX_PIN, 1);
    family_pin(CS_SERIAL_RX_PORT, CS_SERIAL_RX_PIN, 0);
    *usart_enable |= USART_CLOCK;
    (void)*usart_enable;
    USART_CR1 = 0;
    USART_CR3 = USART_CR3_ON;
    USART_BRR = (peripheral_hz + CS_SERIAL_BAUD / 2u) / CS_SERIAL_BAUD;
    USART_CR1 = USART_CR1_ON;
    cs_counter_start();
}

int cs_board_read(uint8_t *byte)
{
    if ((USART_STATUS & USART_RXNE) == 0u) {
        return 0;
    }
    *byte = (uint8_t)(USART_RECEIVE & 0xFFu);
    return 1;
}

void cs_board_write(uint8_t byte)
{
    for (uint32_t i = 0; i < WRITE_BOUND && (USART_STATUS & USART_TXE) == 0u; i++) {
    }
    USART_TRANSMIT = byte;
}

uint32_t cs_board_clock_hz(void)
{
    return clock_hz;
}

uint16_t cs_board_flags(void)
{
    return flags;
}
