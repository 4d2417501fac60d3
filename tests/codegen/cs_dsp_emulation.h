/* The DSP extension's instructions in C (Arm ARM DDI 0403, SMLAD, SXTB16, SMMLAR), to run the kernels' DSP paths on a host
 * under sanitizers. */
#ifndef CS_DSP_EMULATION_H
#define CS_DSP_EMULATION_H

#include <stdint.h>

static inline int32_t emulated_half(int32_t word, int high)
{
    return (int16_t)(uint16_t)(((uint32_t)word >> (high != 0 ? 16 : 0)) & 0xFFFFu);
}

static inline int32_t __smlad(int32_t a, int32_t b, int32_t acc)
{
    const int64_t low = (int64_t)emulated_half(a, 0) * emulated_half(b, 0);
    const int64_t high = (int64_t)emulated_half(a, 1) * emulated_half(b, 1);
    return (int32_t)(uint32_t)((uint64_t)(low + high + acc) & 0xFFFFFFFFu);
}

static inline int32_t __sxtb16(int32_t word)
{
    const uint32_t low = (uint32_t)(int32_t)(int8_t)(uint8_t)((uint32_t)word & 0xFFu) & 0xFFFFu;
    const uint32_t high = (uint32_t)(int32_t)(int8_t)(uint8_t)(((uint32_t)word >> 16) & 0xFFu) & 0xFFFFu;
    return (int32_t)(high << 16 | low);
}

static inline int32_t cs_smmlar(int32_t a, int32_t b, int32_t acc)
{
    const uint64_t sum = ((uint64_t)(uint32_t)acc << 32) + (uint64_t)((int64_t)a * b) + 0x80000000u;
    return (int32_t)(uint32_t)(sum >> 32);
}

#endif
