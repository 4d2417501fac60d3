/* Where STM32F1 and L4 have their USARTs. */
#ifndef CS_USART_PLACES_H
#define CS_USART_PLACES_H

#if CS_SERIAL_UNIT == 1
#define USART_BASE 0x40013800u
#define USART_CLOCK (1u << 14)
#define USART_APB2 1
#elif CS_SERIAL_UNIT == 2
#define USART_BASE 0x40004400u
#define USART_CLOCK (1u << 17)
#define USART_APB2 0
#elif CS_SERIAL_UNIT == 3
#define USART_BASE 0x40004800u
#define USART_CLOCK (1u << 18)
#define USART_APB2 0
#else
#error "this USART is not supported"
#endif

#endif
