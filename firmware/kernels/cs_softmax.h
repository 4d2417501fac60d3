/* Softmax over int8, compiled once for each layer with the layer's constants. */
#ifndef CS_SOFTMAX_H
#define CS_SOFTMAX_H

#include "cs_fixed.h"

CS_INLINE int32_t cs_exponential(const cs_softmax *op, const int32_t *exp_table, int32_t below_max)
{
    return op->table_size > 255u || below_max < (int32_t)op->table_size ? exp_table[below_max] : 0;
}

/* Applied to each of `rows` rows (time steps) of x; y may be x. */
CS_INLINE void cs_softmax_run(const cs_softmax *op, const int32_t *exp_table, const int8_t *x, int8_t *y, uint32_t rows)
{
    const uint32_t classes = op->classes;
    for (; rows > 0u; --rows) {
        int32_t max = -128;
        uint32_t sum = 0; /* Q12.19; each term is at most 2^19 and there are at most 511 */
        uint32_t zeros, shift, k;
        int32_t scale;
        CS_UNROLL
        for (k = 0; k < classes; ++k) {
            max = x[k] > max ? x[k] : max;
        }
        CS_UNROLL
        for (k = 0; k < classes; ++k) {
            sum += ((uint32_t)cs_exponential(op, exp_table, max - x[k]) + 2048u) >> 12;
        }
        scale = cs_softmax_scale(sum, &zeros);
        /* scale * exponential / 2^31, rounded, and that / 2^(35 - zeros), rounded: both are one addition. */
        shift = 34u - zeros;
        CS_UNROLL
        for (k = 0; k < classes; ++k) {
            const int64_t rounding = ((int64_t)((uint32_t)1 << (shift - 1u)) << 32) + ((int64_t)1 << 30);
            const int64_t p = (int64_t)scale * cs_exponential(op, exp_table, max - x[k]) + rounding;
            y[k] = (int8_t)cs_saturate8(((int32_t)(p >> 32) >> shift) - 128, 0);
        }
        x += classes;
        y += classes;
    }
}

#endif
