/* The USART of STM32F7 and L4: registers of their own for either direction. */
#ifndef CS_USART_H
#define CS_USART_H

#define USART_CR1 CS_REGISTER(USART_BASE + 0x00u)
#define USART_CR3 CS_REGISTER(USART_BASE + 0x08u)
#define USART_BRR CS_REGISTER(USART_BASE + 0x0Cu)
#define USART_STATUS CS_REGISTER(USART_BASE + 0x1Cu)
#define USART_RECEIVE CS_REGISTER(USART_BASE + 0x24u)
#define USART_TRANSMIT CS_REGISTER(USART_BASE + 0x28u)
#define USART_CR1_ON ((1u << 0) | (1u << 2) | (1u << 3)) /* UE, RE, TE */
/* OVRDIS: a byte lost to an overrun shows as a bad CRC; it must not stop reception. */
#define USART_CR3_ON (1u << 12)

#endif
