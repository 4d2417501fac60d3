/* Fixed-point primitives, with the rounding of TensorFlow Lite for Microcontrollers' reference kernels, and the packed
 * arithmetic of Arm's DSP extension where the core has it. Callers keep arguments in the stated ranges (the generator
 * checks them), so nothing here overflows. */
#ifndef CS_FIXED_H
#define CS_FIXED_H

#include <stdint.h>

#include "cs_kernels.h"

#if defined(CS_DSP_EMULATION)
#define CS_DSP 1
#include "cs_dsp_emulation.h" /* of the tests: the intrinsics in C, to run the DSP paths on a host */
#elif defined(__GNUC__) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && __ARM_ARCH >= 7
#define CS_DSP 1
#include <arm_acle.h>
#else
#define CS_DSP 0
#endif

/* Hand-written loads of several registers, where words lie in memory as in registers. */
#if CS_DSP && !defined(CS_DSP_EMULATION) && defined(__OPTIMIZE__) && !defined(__ARM_BIG_ENDIAN)
#define CS_DSP_LOADS 1
#else
#define CS_DSP_LOADS 0
#endif

#if defined(__GNUC__)
#define CS_INLINE static inline __attribute__((always_inline))
#define CS_NOINLINE __attribute__((noinline))
#else
#define CS_INLINE static inline
#define CS_NOINLINE
#endif

/* Loops over columns are unrolled for speed, not where the compiler is asked for size. */
#if CS_DSP && defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
#define CS_UNROLL _Pragma("GCC unroll 8")
#else
#define CS_UNROLL
#endif

/* Without packed arithmetic, int16 are read one by one from where two or four share a word. */
#if !CS_DSP && !defined(CS_PLAIN_C) && defined(__GNUC__) && defined(__BYTE_ORDER__)
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define CS_NARROW_LOADS 1
typedef int16_t __attribute__((may_alias)) cs_half_word;
#endif
#endif
#if !defined(CS_NARROW_LOADS)
#define CS_NARROW_LOADS 0
#endif

/* Right shifts of negative values must be arithmetic: true of every compiler for the targets, checked here. */
typedef char cs_check_arithmetic_shift[((-5) >> 1) == -3 ? 1 : -1];

/* -1 where v is negative, else 0. */
CS_INLINE int32_t cs_sign(int32_t v)
{
    return (v >> 30) >> 1;
}

CS_INLINE int32_t cs_clamp(int32_t v, int32_t low, int32_t high)
{
    return v < low ? low : (v > high ? high : v);
}

/* clamp(v >> shift, -2^(bits - 1), 2^(bits - 1) - 1): one SSAT where `shift` is known when compiling. */
#if defined(__GNUC__) && defined(__ARM_FEATURE_SAT) && defined(__OPTIMIZE__)
#define CS_SATURATE(bits)                                                                                              \
    CS_INLINE int32_t cs_saturate##bits(int32_t v, uint32_t shift)                                                     \
    {                                                                                                                  \
        int32_t result;                                                                                                \
        if (__builtin_constant_p(shift) && shift >= 1u && shift <= 31u) {                                              \
            __asm("ssat %0, #" #bits ", %1, asr %2" : "=r"(result) : "r"(v), "i"(shift));                              \
        } else {                                                                                                       \
            __asm("ssat %0, #" #bits ", %1" : "=r"(result) : "r"(v >> shift));                                         \
        }                                                                                                              \
        return result;                                                                                                 \
    }
#else
#define CS_SATURATE(bits)                                                                                              \
    CS_INLINE int32_t cs_saturate##bits(int32_t v, uint32_t shift)                                                     \
    {                                                                                                                  \
        return cs_clamp(v >> shift, -(1 << (bits - 1)), (1 << (bits - 1)) - 1);                                        \
    }
#endif
CS_SATURATE(8)
CS_SATURATE(9)
CS_SATURATE(16)

/* a * b / 2^32 + c, rounded half up; 0 <= b; the result fits. One SMMLAR with the DSP extension. */
CS_INLINE int32_t cs_multiply_high_add(int32_t a, int32_t b, int32_t c)
{
#if defined(CS_DSP_EMULATION)
    return cs_smmlar(a, b, c);
#elif CS_DSP
    int32_t result;
    __asm("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
#elif defined(__ARM_ARCH_ISA_THUMB) && __ARM_ARCH_ISA_THUMB == 1
    /* No 64-bit product on this core: four of 16 bits. */
    const uint32_t a_low = (uint32_t)a & 0xFFFFu;
    const uint32_t b_low = (uint32_t)b & 0xFFFFu;
    const int32_t a_high = a >> 16;
    const int32_t b_high = b >> 16;
    const int32_t middle = a_high * (int32_t)b_low + (int32_t)((a_low * b_low) >> 16);
    const uint32_t rest = a_low * (uint32_t)b_high + ((uint32_t)middle & 0xFFFFu) + 0x8000u;
    return c + a_high * b_high + (middle >> 16) + (int32_t)(rest >> 16);
#else
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 31)) >> 32) + c;
#endif
}

/* round(a * b / 2^31), ties up; a and b are not both INT32_MIN. */
CS_INLINE int32_t cs_doubling_high_mul(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* Keeps the compiler from knowing a pointer's target, so that it loads numbers instead of building them from pieces. */
#if defined(__GNUC__) && defined(__thumb__)
#define CS_OPAQUE(pointer) __asm("" : "+r"(pointer))
#define CS_ORDER() __asm volatile("" ::: "memory")
#else
#define CS_OPAQUE(pointer) (void)(pointer)
#define CS_ORDER() (void)0
#endif

/* The first part of TFLM's MultiplyByQuantizedMultiplier, v * m * 2^(left - right - 31): rounded half up to steps of
 * 2^-right, and half a unit added. The shift by s.right, which rounds to an integer with ties away from zero, is left to do.
 * Takes 2 * v; |v| * 2^left < 2^30. m is s.m and half 2^(s.right - 1), or 0. At most one of left and right is not 0. */
CS_INLINE int32_t cs_scale(int32_t twice, cs_multiplier s, int32_t m, int32_t half)
{
    if (s.right == 0u) {
        return cs_multiply_high_add(twice * (int32_t)((uint32_t)1 << s.left), m, 0);
    }
    /* Rounding away from zero takes 1 off a negative value; where v is negative and the value 0, it changes nothing. */
    return cs_multiply_high_add(twice, m, half) + cs_sign(twice);
}

CS_INLINE int32_t cs_half(cs_multiplier s)
{
    return s.right == 0u ? 0 : (int32_t)((uint32_t)1 << (s.right - 1u));
}

CS_INLINE int32_t cs_rescale(int32_t twice, cs_multiplier s)
{
    return cs_scale(twice, s, s.m, cs_half(s)) >> s.right;
}

/* c + high half of a * b, and without c; b is an int16. */
CS_INLINE int32_t cs_mac_high_low(int32_t a, int32_t b, int32_t c)
{
#if CS_DSP && !defined(CS_DSP_EMULATION)
    return __smlatb(a, b, c);
#else
    return c + (a >> 16) * b;
#endif
}

CS_INLINE int32_t cs_product_high_low(int32_t a, int32_t b)
{
#if CS_DSP && !defined(CS_DSP_EMULATION)
    int32_t result;
    __asm("smultb %0, %1, %2" : "=r"(result) : "r"(a), "r"(b));
    return result;
#else
    return (a >> 16) * b;
#endif
}

/* A product's rescaling, before the shift by cs_product_shift(s): `a` is in a high half, |product| <= 2^30 - 2^15; b's sign
 * is the product's. */
CS_INLINE int32_t cs_scale_product(int32_t a, int32_t b, cs_multiplier s)
{
    if (s.m == (int32_t)1 << 30 && s.right >= 1u && s.right <= 28u) {
        /* A power of two: both roundings are one addition. */
        return cs_mac_high_low(a, b, (int32_t)((uint32_t)1 << s.right) + 1 + 2 * cs_sign(b));
    }
    return cs_scale(2 * cs_product_high_low(a, b), s, s.m, cs_half(s));
}

CS_INLINE uint32_t cs_product_shift(cs_multiplier s)
{
    return s.m == (int32_t)1 << 30 && s.right >= 1u && s.right <= 28u ? s.right + 1u : s.right;
}

/* Two int16 in a word. */
CS_INLINE uint32_t cs_pack(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xFFFFu) | ((uint32_t)high << 16);
}

CS_INLINE int32_t cs_low(uint32_t word)
{
    return (int16_t)(uint16_t)(word & 0xFFFFu);
}

CS_INLINE int32_t cs_high(uint32_t word)
{
    return (int16_t)(uint16_t)(word >> 16);
}

/* acc + low(a) * low(b) + high(a) * high(b), modulo 2^32. */
CS_INLINE uint32_t cs_dual_mac(uint32_t a, uint32_t b, uint32_t acc)
{
#if CS_DSP
    return (uint32_t)__smlad((int32_t)a, (int32_t)b, (int32_t)acc);
#else
    return acc + (uint32_t)(cs_low(a) * cs_low(b)) + (uint32_t)(cs_high(a) * cs_high(b));
#endif
}

/* Bytes 0 and 2, sign-extended to two int16. */
CS_INLINE uint32_t cs_even_bytes(uint32_t word)
{
#if CS_DSP
    return (uint32_t)__sxtb16((int32_t)word);
#else
    return cs_pack((int8_t)(uint8_t)(word & 0xFFu), (int8_t)(uint8_t)((word >> 16) & 0xFFu));
#endif
}

/* Rows in pairs. Two int8 rows a, b and two columns are one word w: the halfword of a column is a + 256 * b. With
 * acc[0] += a . v and acc[1] += (a + 256 * b) . v, the sum b . v is (acc[1] - acc[0]) / 256, exact in 32 bits for up
 * to 255 columns of |v| <= 256. */
CS_INLINE void cs_pair_mac(uint32_t w, uint32_t v, uint32_t acc[2])
{
#if CS_DSP
    acc[0] = cs_dual_mac(cs_even_bytes(w), v, acc[0]);
    acc[1] = cs_dual_mac(w, v, acc[1]);
#else
    const int32_t low = cs_low(v);
    const int32_t high = cs_high(v);
    acc[0] += (uint32_t)((int8_t)(uint8_t)(w & 0xFFu) * low) + (uint32_t)((int8_t)(uint8_t)((w >> 16) & 0xFFu) * high);
    acc[1] += (uint32_t)(cs_low(w) * low) + (uint32_t)(cs_high(w) * high);
#endif
}

CS_INLINE int32_t cs_pair_second(const uint32_t acc[2])
{
    return (int32_t)(acc[1] - acc[0]) >> 8;
}

#endif
