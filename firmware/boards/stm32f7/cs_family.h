/* What the STM32F74x/75x has of its own: RM0385 and, for the caches, PM0253. */
#ifndef CS_FAMILY_H
#define CS_FAMILY_H

#include "cs_series.h"
#include "cs_usart_new.h"

/* The program runs from the AXI flash interface: prefetch and ART accelerator serve the ITCM interface only. */
#define FLASH_ACR_ON 0u

#define SCB_CCR CS_REGISTER(0xE000ED14u)
#define SCB_CCSIDR CS_REGISTER(0xE000ED80u)
#define SCB_CSSELR CS_REGISTER(0xE000ED84u)
#define SCB_ICIALLU CS_REGISTER(0xE000EF50u)
#define SCB_DCISW CS_REGISTER(0xE000EF60u)
#define SCB_CCR_DC (1u << 16)
#define SCB_CCR_IC (1u << 17)

/* Both L1 caches, invalidated and enabled. Nothing uses DMA, so the data cache needs no further maintenance. */
static inline void family_caches(void)
{
    __asm volatile("dsb\n isb" ::: "memory");
    SCB_ICIALLU = 0;
    __asm volatile("dsb\n isb" ::: "memory");
    SCB_CCR |= SCB_CCR_IC;
    SCB_CSSELR = 0;
    __asm volatile("dsb" ::: "memory");
    const uint32_t geometry = SCB_CCSIDR;
    const uint32_t last_set = (geometry >> 13) & 0x7FFFu;
    const uint32_t last_way = (geometry >> 3) & 0x3FFu;
    for (uint32_t set = 0; set <= last_set; set++) {
        for (uint32_t way = 0; way <= last_way; way++) {
            SCB_DCISW = ((set & 0x1FFu) << 5) | (way << 30);
        }
    }
    __asm volatile("dsb" ::: "memory");
    SCB_CCR |= SCB_CCR_DC;
    __asm volatile("dsb\n isb" ::: "memory");
}

#endif
