/* A dense layer, compiled once for each layer with the layer's constants, as the LSTM's step is. */
#ifndef CS_DENSE_H
#define CS_DENSE_H

#include "cs_fixed.h"

/* Four int8 columns at x; `count` of them exist. Gives columns 0 and 2, and 1 and 3. */
CS_INLINE void cs_dense_columns(const int8_t *x, uint32_t count, uint32_t v[2])
{
#if CS_DSP && !defined(CS_DSP_EMULATION) && defined(__ARM_FEATURE_UNALIGNED) && !defined(__ARM_BIG_ENDIAN)
    if (count >= 4u) {
        uint32_t word;
        __builtin_memcpy(&word, x, sizeof word);
        v[0] = cs_even_bytes(word);
        v[1] = cs_even_bytes(word >> 8 | word << 24);
        return;
    }
#endif
    v[0] = cs_pack(x[0], count > 2u ? x[2] : 0);
    v[1] = cs_pack(count > 1u ? x[1] : 0, count > 3u ? x[3] : 0);
}

CS_INLINE int8_t cs_dense_output(const cs_dense *op, const cs_dense_scale *scales, uint32_t acc, uint32_t k)
{
    const cs_dense_scale *s = scales + (op->per_channel != 0u ? k : 0u);
    int32_t y = (int32_t)(2u * acc);
    if (op->fine != 0u) {
        y = cs_multiply_high_add(y, s->m, s->half) + cs_sign(y);
    } else {
        y = cs_multiply_high_add(y * (int32_t)((uint32_t)1 << s->left), s->m, s->half) + (s->right != 0u ? cs_sign(y) : 0);
    }
    y = (y >> s->right) + op->output_zero_point;
    if (op->act_min == -128 && op->act_max == 127) {
        return (int8_t)cs_saturate8(y, 0);
    }
    return (int8_t)cs_clamp(y, op->act_min, op->act_max);
}

#define CS_DENSE_CHUNK 508u /* columns: |x| is at most 128 here */

CS_INLINE const uint64_t *cs_dense_four_paired(const uint64_t *w, const int8_t *x, uint32_t count, uint32_t rows,
                                               uint32_t p[2], uint32_t q[2])
{
    const uint64_t w0 = *w++;
    uint32_t v[2];
    cs_dense_columns(x, count, v);
    cs_pair_mac((uint32_t)w0, v[0], p);
    if (rows > 2u) {
        const uint64_t w1 = *w++;
        cs_pair_mac((uint32_t)(w0 >> 32), v[0], q);
        cs_pair_mac((uint32_t)w1, v[1], p);
        cs_pair_mac((uint32_t)(w1 >> 32), v[1], q);
    } else {
        cs_pair_mac((uint32_t)(w0 >> 32), v[1], p);
    }
    return w;
}

/* acc += row . x for a block of `rows` rows: up to 2, or up to 4. */
CS_INLINE const uint64_t *cs_dense_block_paired(const uint64_t *w, const int8_t *x, uint32_t inputs, uint32_t rows,
                                                uint32_t acc[4])
{
    uint32_t first = 0;
    do {
        const uint32_t left = inputs - first;
        const uint32_t count = left < CS_DENSE_CHUNK ? left : CS_DENSE_CHUNK;
        uint32_t p[2], q[2];
        uint32_t i;
        p[0] = p[1] = acc[0];
        q[0] = q[1] = acc[2];
        CS_UNROLL
        for (i = 0; i < count / 4u; ++i) {
            w = cs_dense_four_paired(w, x, 4, rows, p, q);
            x += 4;
        }
        if ((count & 3u) != 0u) {
            w = cs_dense_four_paired(w, x, count & 3u, rows, p, q);
        }
        acc[0] = p[0];
        acc[1] += (uint32_t)cs_pair_second(p);
        acc[2] = q[0];
        acc[3] += (uint32_t)cs_pair_second(q);
        first += count;
    } while (first < inputs);
    return w;
}

CS_INLINE const uint64_t *cs_dense_four_wide(const uint64_t *w, const int8_t *x, uint32_t count, uint32_t rows,
                                             uint32_t acc[4])
{
    uint32_t v[2];
    uint32_t i;
    cs_dense_columns(x, count, v);
    for (i = 0; i < 2u; ++i) {
        const uint64_t w0 = *w++;
        acc[0] = cs_dual_mac((uint32_t)w0, v[i], acc[0]);
        acc[1] = cs_dual_mac((uint32_t)(w0 >> 32), v[i], acc[1]);
        if (rows > 2u) {
            const uint64_t w1 = *w++;
            acc[2] = cs_dual_mac((uint32_t)w1, v[i], acc[2]);
            acc[3] = cs_dual_mac((uint32_t)(w1 >> 32), v[i], acc[3]);
        }
    }
    return w;
}

CS_INLINE const uint64_t *cs_dense_block_wide(const uint64_t *w, const int8_t *x, uint32_t inputs, uint32_t rows,
                                              uint32_t acc[4])
{
    uint32_t i;
    CS_UNROLL
    for (i = 0; i < inputs / 4u; ++i) {
        w = cs_dense_four_wide(w, x, 4, rows, acc);
        x += 4;
    }
    if ((inputs & 3u) != 0u) {
        w = cs_dense_four_wide(w, x, inputs & 3u, rows, acc);
    }
    return w;
}

/* Outputs k to k + rows - 1 of one row of x; rows is 1 to 4. */
CS_INLINE const uint64_t *cs_dense_block(const cs_dense *op, const cs_dense_data *data, const uint64_t *w,
                                         const int8_t *x, int8_t *y, uint32_t k, uint32_t rows)
{
    uint32_t acc[4];
    const int32_t *bias = data->bias + k;
    acc[0] = (uint32_t)bias[0];
    acc[1] = rows > 1u ? (uint32_t)bias[1] : 0u;
    acc[2] = rows > 2u ? (uint32_t)bias[2] : 0u;
    acc[3] = rows > 3u ? (uint32_t)bias[3] : 0u;
    w = op->wide != 0u ? cs_dense_block_wide(w, x, op->inputs, rows, acc)
                       : cs_dense_block_paired(w, x, op->inputs, rows, acc);
    y[0] = cs_dense_output(op, data->scale, acc[0], k);
    if (rows > 1u) {
        y[1] = cs_dense_output(op, data->scale, acc[1], k + 1u);
    }
    if (rows > 2u) {
        y[2] = cs_dense_output(op, data->scale, acc[2], k + 2u);
    }
    if (rows > 3u) {
        y[3] = cs_dense_output(op, data->scale, acc[3], k + 3u);
    }
    return w;
}

/* Applied to each of `rows` rows (time steps) of x. */
CS_INLINE void cs_dense_run(const cs_dense *op, const cs_dense_data *data, const int8_t *x, int8_t *y, uint32_t rows)
{
    CS_OPAQUE(data);
    for (; rows > 0u; --rows) {
        const uint64_t *w = data->weights;
        uint32_t k;
        for (k = 0; k < op->outputs / 4u * 4u; k += 4u) {
            w = cs_dense_block(op, data, w, x, y + k, k, 4);
        }
        if (op->outputs % 4u != 0u) {
            (void)cs_dense_block(op, data, w, x, y + k, k, op->outputs % 4u);
        }
        x += op->inputs;
        y += op->outputs;
    }
}

#endif
