/* Fixed-point primitives, with the rounding of TensorFlow Lite for Microcontrollers' reference kernels.
 * Every value is int32; products are int64. Callers keep arguments in the stated ranges (the generator checks them),
 * so nothing here overflows. */
#ifndef CS_FIXED_H
#define CS_FIXED_H

#include <stdint.h>

#include "cs_kernels.h"

/* Right shifts of negative values must be arithmetic: true of every compiler for the targets, checked here. */
typedef char cs_check_arithmetic_shift[((-5) >> 1) == -3 ? 1 : -1];

static inline int32_t cs_clamp(int32_t v, int32_t low, int32_t high)
{
    return v < low ? low : (v > high ? high : v);
}

static inline int32_t cs_sat16(int32_t v)
{
    return cs_clamp(v, -32768, 32767);
}

/* round(a * b / 2^31), ties up; a and b are not both INT32_MIN. */
static inline int32_t cs_doubling_high_mul(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* round(v / 2^n), ties away from zero, 0 <= n <= 31. */
static inline int32_t cs_rounding_shift(int32_t v, uint32_t n)
{
    const int32_t mask = (int32_t)((1u << n) - 1u);
    const int32_t threshold = (mask >> 1) + (v < 0 ? 1 : 0);
    return (v >> n) + ((v & mask) > threshold ? 1 : 0);
}

/* v * m * 2^(left - right - 31) with the two roundings above; |v| * 2^left < 2^31. */
static inline int32_t cs_multiply(int32_t v, cs_multiplier m)
{
    return cs_rounding_shift(cs_doubling_high_mul(v * (int32_t)((uint32_t)1 << m.left), m.m), m.right);
}

#endif
