/* What the STM32F2 has of its own: RM0033. Clock tree, flash accelerator and USART are those of the STM32F4. */
#ifndef CS_FAMILY_H
#define CS_FAMILY_H

#include "cs_board.h"

/* Prefetch, instruction and data caches of the flash accelerator. */
#define FAMILY_FLASH_ACR ((1u << 8) | (1u << 9) | (1u << 10))

#define USART_CR1 CS_REGISTER(USART_BASE + 0x0Cu)
#define USART_CR3 CS_REGISTER(USART_BASE + 0x14u)
#define USART_BRR CS_REGISTER(USART_BASE + 0x08u)
#define USART_STATUS CS_REGISTER(USART_BASE + 0x00u)
#define USART_RECEIVE CS_REGISTER(USART_BASE + 0x04u) /* reading status, then data also clears an overrun */
#define USART_TRANSMIT CS_REGISTER(USART_BASE + 0x04u)
#define FAMILY_USART_CR1 ((1u << 13) | (1u << 2) | (1u << 3)) /* UE, RE, TE */
#define FAMILY_USART_CR3 0u

/* The Cortex-M3 has no caches of its own. */
static void cs_family_enable_caches(void)
{
}

#endif
