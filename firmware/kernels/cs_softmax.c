#include "cs_fixed.h"

/* 4 * v, saturated. */
static int32_t times_four(int32_t v)
{
    return v > 536870911 ? INT32_MAX : (v < -536870912 ? INT32_MIN : v * 4);
}

/* 1 / (1 + a) for a in [0, 1) of Q0.31, result in Q0.31: three Newton-Raphson steps on d = (1 + a) / 2 in Q2.29,
 * started from 48/17 - 32/17 d. */
static int32_t reciprocal_of_one_plus(int32_t a)
{
    const int32_t d = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = 1515870810 + cs_doubling_high_mul(d, -1010580540);
    int n;
    for (n = 0; n < 3; ++n) {
        const int32_t residual = 536870912 - cs_doubling_high_mul(d, x);
        x += times_four(cs_doubling_high_mul(x, residual));
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

static int32_t exponential(const cs_softmax *op, int32_t below_max)
{
    return below_max < (int32_t)op->table_size ? op->exp_table[below_max] : 0;
}

void cs_softmax_run(const cs_softmax *op, const int8_t *x, int8_t *y, uint32_t rows)
{
    const uint32_t classes = op->classes;
    uint32_t k;
    for (; rows > 0u; --rows) {
        int32_t max = -128;
        uint32_t sum = 0; /* Q12.19; each term is at most 2^19 and there are at most 511 */
        uint32_t zeros, exponent;
        int32_t scale;
        for (k = 0; k < classes; ++k) {
            max = x[k] > max ? x[k] : max;
        }
        for (k = 0; k < classes; ++k) {
            sum += ((uint32_t)exponential(op, max - x[k]) + 2048u) >> 12;
        }
        zeros = leading_zeros(sum);
        scale = reciprocal_of_one_plus((int32_t)((sum << zeros) - 0x80000000u));
        exponent = 12u - zeros + 23u;
        for (k = 0; k < classes; ++k) {
            const uint32_t p = (uint32_t)cs_doubling_high_mul(scale, exponential(op, max - x[k]));
            y[k] = (int8_t)cs_clamp((int32_t)((p + ((uint32_t)1 << (exponent - 1u))) >> exponent) - 128, -128, 127);
        }
        x += classes;
        y += classes;
    }
}
