/* STM32F2 and STM32F4 beyond their series: flash accelerator and USART. The cores have no caches of their own. */
#ifndef CS_CORTEX_M3_M4_H
#define CS_CORTEX_M3_M4_H

#include "cs_series.h"
#include "cs_usart_old.h"

/* Prefetch, instruction and data caches of the flash accelerator. */
#define FLASH_ACR_ON ((1u << 8) | (1u << 9) | (1u << 10))

static inline void family_caches(void)
{
}

#endif
