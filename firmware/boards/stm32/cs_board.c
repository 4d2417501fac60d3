/* STM32F2, STM32F4 and STM32F7: HSE -> PLL, one USART. Registers and sequences from RM0385 (STM32F74x/75x), RM0390 (STM32F446),
   RM0368 (STM32F401), RM0090 (STM32F405/407) and RM0033 (STM32F2); what differs between the families is in cs_family.h. */
#include "cs_board.h"
#include "cs_config.h"
#include "cs_family.h"
#include "cs_stm32.h"

#define HSI_HZ 16000000u

#define RCC_BASE 0x40023800u
#define RCC_CR CS_REGISTER(RCC_BASE + 0x00u)
#define RCC_PLLCFGR CS_REGISTER(RCC_BASE + 0x04u)
#define RCC_CFGR CS_REGISTER(RCC_BASE + 0x08u)
#define RCC_AHB1ENR CS_REGISTER(RCC_BASE + 0x30u)
#define RCC_APB1ENR CS_REGISTER(RCC_BASE + 0x40u)
#define RCC_APB2ENR CS_REGISTER(RCC_BASE + 0x44u)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_APB1ENR_PWREN (1u << 28)
#define RCC_PLLCFGR_HSE (1u << 22)
/* Bits 30:28 are PLLR on some parts and reserved on others; all reset to 2. */
#define RCC_PLLCFGR_RESET_R (2u << 28)
#define RCC_CFGR_SW 3u
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SWS (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)

#define PWR_CR CS_REGISTER(0x40007000u)
#define PWR_CSR CS_REGISTER(0x40007004u)
#define PWR_CR_VOS (3u << 14)
#define PWR_CR_ODEN (1u << 16)
#define PWR_CR_ODSWEN (1u << 17)
#define PWR_CSR_ODRDY (1u << 16)
#define PWR_CSR_ODSWRDY (1u << 17)

#define FLASH_ACR CS_REGISTER(0x40023C00u)
#define FLASH_ACR_LATENCY 15u

#define GPIO_BASE(port) (0x40020000u + 0x400u * (uint32_t)(port))
#define GPIO_MODER(port) CS_REGISTER(GPIO_BASE(port) + 0x00u)
#define GPIO_AFR(port, pin) CS_REGISTER(GPIO_BASE(port) + 0x20u + 4u * ((uint32_t)(pin) / 8u))

/* USART1 and USART6 are on APB2, the others on APB1. */
#if CS_SERIAL_UNIT == 1
#define USART_BASE 0x40011000u
#define USART_ENABLE() (RCC_APB2ENR |= 1u << 4)
#define USART_APB2 1
#elif CS_SERIAL_UNIT == 2
#define USART_BASE 0x40004400u
#define USART_ENABLE() (RCC_APB1ENR |= 1u << 17)
#define USART_APB2 0
#elif CS_SERIAL_UNIT == 3
#define USART_BASE 0x40004800u
#define USART_ENABLE() (RCC_APB1ENR |= 1u << 18)
#define USART_APB2 0
#elif CS_SERIAL_UNIT == 6
#define USART_BASE 0x40011400u
#define USART_ENABLE() (RCC_APB2ENR |= 1u << 5)
#define USART_APB2 1
#else
#error "this USART is not supported"
#endif
#define USART_RXNE (1u << 5)
#define USART_TXE (1u << 7)

static uint32_t clock_hz;
static uint16_t flags;

static int start_pll(void)
{
    RCC_APB1ENR |= RCC_APB1ENR_PWREN;
    (void)RCC_APB1ENR;
    RCC_CR |= (CS_HSE_BYPASS ? RCC_CR_HSEBYP : 0u);
    RCC_CR |= RCC_CR_HSEON;
    if (!wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY)) {
        return 0;
    }
    /* Scale 1, which over-drive needs; it can only change while the PLL is off. Elsewhere the reset value is right. */
    PWR_CR |= CS_OVERDRIVE ? PWR_CR_VOS : 0u;
    RCC_PLLCFGR = CS_PLL_M | (CS_PLL_N << 6) | ((CS_PLL_P / 2u - 1u) << 16) | RCC_PLLCFGR_HSE | (CS_PLL_Q << 24) |
                  RCC_PLLCFGR_RESET_R;
    RCC_CR |= RCC_CR_PLLON;
    if (CS_OVERDRIVE) {
        PWR_CR |= PWR_CR_ODEN;
        if (!wait_for(&PWR_CSR, PWR_CSR_ODRDY, PWR_CSR_ODRDY)) {
            return 0;
        }
        PWR_CR |= PWR_CR_ODSWEN;
        if (!wait_for(&PWR_CSR, PWR_CSR_ODSWRDY, PWR_CSR_ODSWRDY)) {
            return 0;
        }
    }
    FLASH_ACR = FAMILY_FLASH_ACR | CS_FLASH_WAIT_STATES;
    if (!wait_for(&FLASH_ACR, FLASH_ACR_LATENCY, CS_FLASH_WAIT_STATES)) {
        return 0;
    }
    if (!wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY)) {
        return 0;
    }
    RCC_CFGR = (prescaler_bits(CS_APB1_DIVIDER) << 10) | (prescaler_bits(CS_APB2_DIVIDER) << 13);
    RCC_CFGR |= RCC_CFGR_SW_PLL;
    return wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SWS_PLL);
}

static void alternate_function(uint32_t port, uint32_t pin)
{
    RCC_AHB1ENR |= 1u << port;
    (void)RCC_AHB1ENR;
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
        clock_hz = HSI_HZ;
        peripheral_hz = HSI_HZ;
        flags = CS_FLAG_CLOCK_FALLBACK;
    }
    cs_family_enable_caches();
    alternate_function(CS_SERIAL_TX_PORT, CS_SERIAL_TX_PIN);
    alternate_function(CS_SERIAL_RX_PORT, CS_SERIAL_RX_PIN);
    USART_ENABLE();
    (void)RCC_APB1ENR;
    USART_CR1 = 0;
    USART_CR3 = FAMILY_USART_CR3;
    USART_BRR = (peripheral_hz + CS_SERIAL_BAUD / 2u) / CS_SERIAL_BAUD;
    USART_CR1 = FAMILY_USART_CR1;
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
