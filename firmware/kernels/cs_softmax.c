#include "cs_fixed.h"

/* 1 / (1 + a) for a in [0, 1) of Q0.31, result in Q0.31: three Newton-Raphson steps on d = (1 + a) / 2 in Q2.29,
 * started from 48/17 - 32/17 d. The error of the start is at most 1/17, so that no step saturates. */
static int32_t reciprocal_of_one_plus(int32_t a)
{
    const int32_t d = (int32_t)(((uint32_t)a >> 1) + 0x40000000u);
    int32_t x = 1515870810 + cs_doubling_high_mul(d, -1010580540);
    int n;
    for (n = 0; n < 3; ++n) {
        const int32_t residual = 536870912 - cs_doubling_high_mul(d, x);
        x += cs_doubling_high_mul(x, residual) * 4;
    }
    return x > 1073741823 ? INT32_MAX : x * 2;
}

static uint32_t leading_zeros(uint32_t v)
{
#if defined(__GNUC__)
    return (uint32_t)__builtin_clz(v);
#else
    uint32_t n = 0;
    while ((v & 0x80000000u) == 0u) {
        v <<= 1;
        ++n;
    }
    return n;
#endif
}

int32_t cs_softmax_scale(uint32_t sum, uint32_t *zeros)
{
    *zeros = leading_zeros(sum);
    return reciprocal_of_one_plus((int32_t)((sum << *zeros) - 0x80000000u));
}
