/* The USART of STM32F1, F2 and F4: one status and one data register. */
#ifndef CS_USART_H
#define CS_USART_H

#define USART_STATUS CS_REGISTER(USART_BASE + 0x00u)
#define USART_RECEIVE CS_REGISTER(USART_BASE + 0x04u) /* reading status, then data also clears an overrun */
#define USART_TRANSMIT CS_REGISTER(USART_BASE + 0x04u)
#define USART_BRR CS_REGISTER(USART_BASE + 0x08u)
#define USART_CR1 CS_REGISTER(USART_BASE + 0x0Cu)
#define USART_CR3 CS_REGISTER(USART_BASE + 0x14u)
#define USART_CR1_ON ((1u << 13) | (1u << 2) | (1u << 3)) /* UE, RE, TE */
#define USART_CR3_ON 0u

#endif
