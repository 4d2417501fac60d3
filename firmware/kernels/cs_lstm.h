/* The LSTM's step, compiled once for each layer with the layer's constants: generated code calls cs_lstm_step with a
 * constant `k`, so that scales become immediates and loops over columns are unrolled. */
#ifndef CS_LSTM_H
#define CS_LSTM_H

#include <stddef.h>

#include "cs_fixed.h"

/* The fraction of the argument at bit 6, below the weight of a segment's start, -2^15 in the high half. */
CS_INLINE uint32_t cs_factors(int32_t argument)
{
    uint32_t factors = 0x80000000u;
#if CS_DSP && !defined(CS_DSP_EMULATION)
    __asm("bfi %0, %1, #6, #9" : "+r"(factors) : "r"(argument));
    return factors;
#else
    return factors | (((uint32_t)argument & 511u) << 6);
#endif
}

/* One half, and the rounding of the high half of the sigmoid's result. */
#define CS_SIGMOID_OFFSET ((1 << 30) + (1 << 15))

/* Sigmoid of d / 12288: Q0.15 in the high half. `middle` is the middle of sigmoid_segments, `offset` CS_SIGMOID_OFFSET. */
CS_INLINE int32_t cs_sigmoid_at(int32_t d, const uint32_t *middle, int32_t offset)
{
    /* Ties go towards zero for negative arguments. */
    return (int32_t)cs_dual_mac(middle[d >> 9], cs_factors(d), (uint32_t)(offset + cs_sign(d)));
}

/* Sigmoid of x in Q3.12. */
CS_INLINE int32_t cs_sigmoid(int32_t x, const uint32_t *middle, int32_t offset)
{
    return cs_sigmoid_at(3 * x, middle, offset);
}

/* Tanh of an argument in 1/24576, |twice| <= 2^30: Q0.15. tanh(x) = 2 sigmoid(2 x) - 1 on the same segments. */
CS_INLINE int32_t cs_tanh(int32_t twice, const uint32_t *middle)
{
    const uint32_t segment = middle[cs_saturate9(twice, 9)];
    return (int32_t)cs_dual_mac(segment, cs_factors(twice), (uint32_t)((1 << 14) + cs_sign(twice))) >> 15;
}

/* The argument of the cell's tanh, doubled; beyond the last segment where that would overflow. */
CS_INLINE int32_t cs_tanh_argument(int32_t cell, int32_t factor, uint32_t shift)
{
    if (shift != 0u) {
        return ((cell * factor + (int32_t)((uint32_t)1 << (shift - 1u))) >> shift) * 2;
    }
    return factor > 3 << 8 ? cs_clamp(cell * factor, -65536, 65535) * 2 : cell * (2 * factor);
}

/* Four doubled values to a word; missing ones are 0. */
CS_INLINE void cs_widen(const int8_t *x, uint32_t n, uint64_t *wide)
{
    uint32_t i;
    for (i = 0; i + 4u <= n; i += 4u) {
        const uint32_t high = cs_pack(2 * x[i + 2u], 2 * x[i + 3u]);
        *wide++ = (uint64_t)high << 32 | cs_pack(2 * x[i], 2 * x[i + 1u]);
    }
    if (i < n) {
        const int32_t second = i + 1u < n ? 2 * x[i + 1u] : 0;
        const int32_t third = i + 2u < n ? 2 * x[i + 2u] : 0;
        *wide = (uint64_t)cs_pack(third, 0) << 32 | cs_pack(2 * x[i], second);
    }
}

#define CS_PAIRED_CHUNK 126u /* pairs of columns */

/* Four columns: gates in pairs, p and q, two words of weights and one of inputs. Loading several registers at once is what
 * the compiler does not find by itself. */
CS_INLINE void cs_four_columns_paired(const uint64_t **w, const uint64_t **v, uint32_t p[2], uint32_t q[2])
{
#if CS_DSP_LOADS
    __asm("ldmia %0!, {r4, r5, r6, r8}\n\t"
          "ldmia %1!, {r9, r10}\n\t"
          "smlad %3, r4, r9, %3\n\t"
          "sxtb16 r4, r4\n\t"
          "smlad %5, r5, r9, %5\n\t"
          "sxtb16 r5, r5\n\t"
          "smlad %2, r4, r9, %2\n\t"
          "smlad %4, r5, r9, %4\n\t"
          "smlad %3, r6, r10, %3\n\t"
          "sxtb16 r6, r6\n\t"
          "smlad %5, r8, r10, %5\n\t"
          "sxtb16 r8, r8\n\t"
          "smlad %2, r6, r10, %2\n\t"
          "smlad %4, r8, r10, %4"
          : "+r"(*w), "+r"(*v), "+r"(p[0]), "+r"(p[1]), "+r"(q[0]), "+r"(q[1])
          :
          : "r4", "r5", "r6", "r8", "r9", "r10", "memory");
#elif CS_NARROW_LOADS
    const cs_half_word *h = (const cs_half_word *)*w;
    const cs_half_word *x = (const cs_half_word *)*v;
    const int8_t *b = (const int8_t *)*w;
    const int32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
    p[0] += (uint32_t)(b[0] * x0) + (uint32_t)(b[2] * x1) + (uint32_t)(b[8] * x2) + (uint32_t)(b[10] * x3);
    p[1] += (uint32_t)(h[0] * x0) + (uint32_t)(h[1] * x1) + (uint32_t)(h[4] * x2) + (uint32_t)(h[5] * x3);
    q[0] += (uint32_t)(b[4] * x0) + (uint32_t)(b[6] * x1) + (uint32_t)(b[12] * x2) + (uint32_t)(b[14] * x3);
    q[1] += (uint32_t)(h[2] * x0) + (uint32_t)(h[3] * x1) + (uint32_t)(h[6] * x2) + (uint32_t)(h[7] * x3);
    *w += 2;
    ++*v;
#else
    const uint64_t w0 = (*w)[0], w1 = (*w)[1], vv = **v;
    cs_pair_mac((uint32_t)w0, (uint32_t)vv, p);
    cs_pair_mac((uint32_t)(w0 >> 32), (uint32_t)vv, q);
    cs_pair_mac((uint32_t)w1, (uint32_t)(vv >> 32), p);
    cs_pair_mac((uint32_t)(w1 >> 32), (uint32_t)(vv >> 32), q);
    *w += 2;
    ++*v;
#endif
}

/* The same for wide weights: four words of weights. */
CS_INLINE void cs_four_columns_wide(const uint64_t **w, const uint64_t **v, uint32_t a[4])
{
#if CS_DSP_LOADS
    __asm("ldmia %0!, {r4, r5, r6, r8}\n\t"
          "ldmia %1!, {r9, r10}\n\t"
          "smlad %2, r4, r9, %2\n\t"
          "smlad %3, r5, r9, %3\n\t"
          "smlad %4, r6, r9, %4\n\t"
          "smlad %5, r8, r9, %5\n\t"
          "ldmia %0!, {r4, r5, r6, r8}\n\t"
          "smlad %2, r4, r10, %2\n\t"
          "smlad %3, r5, r10, %3\n\t"
          "smlad %4, r6, r10, %4\n\t"
          "smlad %5, r8, r10, %5"
          : "+r"(*w), "+r"(*v), "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])
          :
          : "r4", "r5", "r6", "r8", "r9", "r10", "memory");
#elif CS_NARROW_LOADS
    const cs_half_word *h = (const cs_half_word *)*w;
    const cs_half_word *x = (const cs_half_word *)*v;
    const int32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
    a[0] += (uint32_t)(h[0] * x0) + (uint32_t)(h[1] * x1) + (uint32_t)(h[8] * x2) + (uint32_t)(h[9] * x3);
    a[1] += (uint32_t)(h[2] * x0) + (uint32_t)(h[3] * x1) + (uint32_t)(h[10] * x2) + (uint32_t)(h[11] * x3);
    a[2] += (uint32_t)(h[4] * x0) + (uint32_t)(h[5] * x1) + (uint32_t)(h[12] * x2) + (uint32_t)(h[13] * x3);
    a[3] += (uint32_t)(h[6] * x0) + (uint32_t)(h[7] * x1) + (uint32_t)(h[14] * x2) + (uint32_t)(h[15] * x3);
    *w += 4;
    ++*v;
#else
    const uint64_t *words = *w;
    const uint32_t v0 = (uint32_t)**v, v1 = (uint32_t)(**v >> 32);
    a[0] = cs_dual_mac((uint32_t)words[0], v0, a[0]);
    a[1] = cs_dual_mac((uint32_t)(words[0] >> 32), v0, a[1]);
    a[2] = cs_dual_mac((uint32_t)words[1], v0, a[2]);
    a[3] = cs_dual_mac((uint32_t)(words[1] >> 32), v0, a[3]);
    a[0] = cs_dual_mac((uint32_t)words[2], v1, a[0]);
    a[1] = cs_dual_mac((uint32_t)(words[2] >> 32), v1, a[1]);
    a[2] = cs_dual_mac((uint32_t)words[3], v1, a[2]);
    a[3] = cs_dual_mac((uint32_t)(words[3] >> 32), v1, a[3]);
    *w += 4;
    ++*v;
#endif
}

/* acc[g] = row g . v + bias for the four rows of a unit. Gives the next part of the record. */
CS_INLINE const uint64_t *cs_gates_paired(const uint64_t *w, const uint64_t *v, uint32_t pairs, int32_t acc[4])
{
    uint32_t first = 0;
    uint32_t p[2], q[2];
    p[0] = p[1] = (uint32_t)*w;
    q[0] = q[1] = (uint32_t)(*w >> 32);
    acc[1] = acc[3] = 0;
    ++w;
    do {
        const uint32_t left = pairs - first;
        const uint32_t count = left < CS_PAIRED_CHUNK ? left : CS_PAIRED_CHUNK;
        uint32_t i;
        CS_UNROLL
        for (i = 0; i < count / 2u; ++i) {
            cs_four_columns_paired(&w, &v, p, q);
        }
        if ((count & 1u) != 0u) {
            cs_pair_mac((uint32_t)*w, (uint32_t)*v, p);
            cs_pair_mac((uint32_t)(*w >> 32), (uint32_t)*v, q);
            ++w;
        }
        acc[1] += cs_pair_second(p);
        acc[3] += cs_pair_second(q);
        p[1] = p[0];
        q[1] = q[0];
        first += count;
    } while (first < pairs);
    CS_ORDER();
    acc[0] = (int32_t)p[0];
    acc[1] += (int32_t)(uint32_t)*w;
    acc[2] = (int32_t)q[0];
    acc[3] += (int32_t)(uint32_t)(*w >> 32);
    return w + 1;
}

CS_INLINE const uint64_t *cs_gates_wide(const uint64_t *w, const uint64_t *v, uint32_t pairs, int32_t acc[4])
{
    uint32_t a[4];
    uint32_t i;
    a[0] = (uint32_t)w[0];
    a[2] = (uint32_t)(w[0] >> 32);
    a[1] = (uint32_t)w[1];
    a[3] = (uint32_t)(w[1] >> 32);
    w += 2;
    CS_UNROLL
    for (i = 0; i < pairs / 2u; ++i) {
        cs_four_columns_wide(&w, &v, a);
    }
    if ((pairs & 1u) != 0u) {
        const uint32_t v0 = (uint32_t)*v;
        a[0] = cs_dual_mac((uint32_t)w[0], v0, a[0]);
        a[1] = cs_dual_mac((uint32_t)(w[0] >> 32), v0, a[1]);
        a[2] = cs_dual_mac((uint32_t)w[1], v0, a[2]);
        a[3] = cs_dual_mac((uint32_t)(w[1] >> 32), v0, a[3]);
        w += 2;
    }
    acc[0] = (int32_t)a[0];
    acc[1] = (int32_t)a[1];
    acc[2] = (int32_t)a[2];
    acc[3] = (int32_t)a[3];
    return w;
}

/* The four gates' contributions, rescaled to Q3.12 and saturated. */
CS_INLINE const uint64_t *cs_gates(uint32_t is_wide, const cs_multiplier s[4], const cs_scale_pair scales[4],
                                   const uint64_t *w, const uint64_t *v, uint32_t pairs, int32_t gates[4])
{
    int32_t acc[4];
    w = is_wide != 0u ? cs_gates_wide(w, v, pairs, acc) : cs_gates_paired(w, v, pairs, acc);
    gates[0] = cs_saturate16(cs_scale(acc[0], s[0], scales[0].m, scales[0].half), s[0].right);
    gates[1] = cs_saturate16(cs_scale(acc[1], s[1], scales[1].m, scales[1].half), s[1].right);
    gates[2] = cs_saturate16(cs_scale(acc[2], s[2], scales[2].m, scales[2].half), s[2].right);
    gates[3] = cs_saturate16(cs_scale(acc[3], s[3], scales[3].m, scales[3].half), s[3].right);
    CS_ORDER();
    return w;
}

/* The next cell state; i and f in high halves. */
CS_INLINE int32_t cs_next_cell(const cs_lstm_constants *k, int32_t cell, int32_t i, int32_t f, int32_t g)
{
    const int32_t update = cs_saturate16(cs_scale_product(i, g, k->update_scale), cs_product_shift(k->update_scale));
    /* f c does not leave 16 bits: only the sum saturates. */
    const int32_t c = (cs_scale_product(f, cell, k->forget_scale) >> cs_product_shift(k->forget_scale)) + update;
    if (k->cell_clip == 32767) {
        return cs_saturate16(c + cs_sign(c), 0) - cs_sign(c); /* to -32767 */
    }
    if (k->cell_clip > 0) {
        return cs_clamp(cs_saturate16(c, 0), -k->cell_clip, k->cell_clip);
    }
    return cs_saturate16(c, 0);
}

CS_INLINE void cs_lstm_step(const cs_lstm *op, const cs_lstm_constants *k, const int8_t *x, const int8_t *hidden,
                            int16_t *cell, int8_t *next, uint64_t *wide)
{
    const uint32_t features = k->features;
    const uint32_t units = k->units;
    uint64_t *const wide_hidden = wide + (features + 3u) / 4u;
    const uint64_t *w;
    const uint32_t *middle = sigmoid_segments + CS_SEGMENTS / 2;
    int32_t offset = CS_SIGMOID_OFFSET;
    uint32_t n;
    CS_OPAQUE(op);
    CS_OPAQUE(middle);
    CS_OPAQUE(offset);
    w = op->weights;
    cs_widen(x, features, wide);
    cs_widen(hidden, units, wide_hidden);
    for (n = 0; n < units; ++n) {
        int32_t in[4], re[4];
        int32_t i, f, g, o, c, y;
        w = cs_gates(k->input_wide, k->input_scale, op->scales, w, wide, (features + 1u) / 2u, in);
        w = cs_gates(k->recurrent_wide, k->recurrent_scale, op->scales + 4, w, wide_hidden, (units + 1u) / 2u, re);
        i = cs_sigmoid(cs_saturate16(in[0] + re[0], 0), middle, offset);
        g = cs_tanh(6 * cs_saturate16(in[2] + re[2], 0), middle);
        f = cs_sigmoid(cs_saturate16(in[1] + re[1], 0), middle, offset);
        c = cs_next_cell(k, *cell, i, f, g);
        *cell++ = (int16_t)c;
        o = cs_sigmoid(cs_saturate16(in[3] + re[3], 0), middle, offset);
        y = cs_product_high_low(o, cs_tanh(cs_tanh_argument(c, k->tanh_factor, k->tanh_shift), middle));
        y = cs_scale(2 * y, k->hidden_scale, op->scales[8].m, op->scales[8].half);
        if (k->hidden_folded != 0u) {
            *next++ = (int8_t)cs_saturate8(y, k->hidden_scale.right);
        } else {
            *next++ = (int8_t)cs_saturate8((y >> k->hidden_scale.right) + k->hidden_zero_point, 0);
        }
    }
}

/* Whole sequence from the initial state. `rows` takes the hidden states, steps * units values; NULL: only `hidden`, which
 * has the last one in either case. `on_step` may be NULL. */
CS_INLINE void cs_lstm_run(cs_lstm_step_fn step_fn, const cs_lstm_constants *k, uint32_t layer, uint32_t steps,
                           const int8_t *x, int8_t *hidden, int16_t *cell, int8_t *rows, uint64_t *wide,
                           cs_step_fn on_step, void *context)
{
    const uint32_t units = k->units;
    const int8_t *previous = hidden;
    uint32_t t;
    cs_state_reset(hidden, cell, units, k->hidden_zero_point);
    for (t = 0; t < steps; ++t) {
        int8_t *next = rows != NULL ? rows + (size_t)t * units : hidden;
        step_fn(x, previous, cell, next, wide);
        if (on_step != NULL) {
            on_step(context, (uint16_t)layer, (uint16_t)t, next, (uint16_t)units);
        }
        x += k->features;
        previous = next;
    }
    if (rows != NULL) {
        cs_copy(previous, hidden, units);
    }
}

#endif
