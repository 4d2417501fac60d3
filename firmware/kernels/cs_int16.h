/* Kernels for int16 activations and int8 weights, with the rounding of TensorFlow Lite for Microcontrollers' 16x8 reference
 * kernels. Zero points are 0. An accumulator is 32 bits wide where the generator has shown that it fits for every input,
 * else 64 ('deep'). Layers are compiled once each with their constants, as those of int8 are. */
#ifndef CS_INT16_H
#define CS_INT16_H

#include <stddef.h>

#include "cs_lstm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* (v * m + 2^(shift - 1)) >> shift: MultiplyByQuantizedMultiplier of an int64, with the multiplier in 16 bits. `m` may be
 * shifted up to make `shift` 32, where v has 32 bits. */
typedef struct {
    int32_t m;
    uint8_t shift;
} cs_scale64;

typedef void (*cs_step16_fn)(void *context, uint16_t layer, uint16_t step, const int16_t *hidden, uint16_t units);
typedef void (*cs_lstm16_step_fn)(const int16_t *x, const int16_t *hidden, int16_t *cell, int16_t *next, uint64_t *words);

/* Weights come in records of four rows: the biases, two words of int32 (rows 0 and 2, 1 and 3) or, where deep, four of
 * int64; then, for each two columns, a word of int8 (bytes: rows 0, 1, 0, 1, then 2, 3, 2, 3) or two words of int16
 * (wide: rows 0 and 1, then 2 and 3). A part is the number of columns and how they are laid out. */
typedef struct {
    uint16_t columns;
    uint8_t wide;
    uint8_t deep;
} cs_part16;

/* An LSTM's records are one a unit, for the input and then the recurrent part. */
typedef struct {
    const uint64_t *weights;
    int32_t m[8]; /* of the gates' scales, input and recurrent */
} cs_lstm16;

/* The numbers of an LSTM. `cell` holds units and what the cell's update needs; its gate scales are not used. */
typedef struct {
    cs_part16 input;
    cs_part16 recurrent;
    uint8_t shift[8]; /* of the gates' scales */
    cs_lstm_constants cell;
} cs_lstm16_constants;

typedef struct {
    cs_part16 input;
    uint16_t outputs;
    uint8_t per_channel; /* `outputs` scales instead of one */
    int16_t act_min;
    int16_t act_max;
} cs_dense16;

/* Argument q * m + 2^(shift - 1) >> shift in 1/12288; shift 0: q * m. */
typedef struct {
    int32_t m;
    uint8_t shift;
} cs_argument16;

void cs_copy16(const int16_t *x, int16_t *y, uint32_t n);

/* A layer's state as 4 * units bytes: hidden's, then the cell's low and high bytes. Give the byte behind them. */
uint8_t *cs_state16_get(const int16_t *hidden, const int16_t *cell, uint32_t units, uint8_t *state);
const uint8_t *cs_state16_set(int16_t *hidden, int16_t *cell, uint32_t units, const uint8_t *state);
void cs_state16_reset(int16_t *hidden, int16_t *cell, uint32_t units);

/* Each value by itself; y may be x. */
void cs_sigmoid16_run(cs_argument16 argument, const int16_t *x, int16_t *y, uint32_t n);
void cs_tanh16_run(cs_argument16 argument, const int16_t *x, int16_t *y, uint32_t n);
void cs_relu16_run(cs_multiplier scale, const int16_t *x, int16_t *y, uint32_t n);

/* Softmax of each of `rows` rows; y may be x. `scale` takes differences to steps of 10 / 65535; the tables have 513 entries:
 * exp on [-10, 0] and 1 / (1 + x) on [0, 1], in Q0.15. */
void cs_softmax16_run(cs_multiplier scale, const int16_t *exp_table, const int16_t *reciprocal_table, const int16_t *x,
                      int16_t *y, uint32_t classes, uint32_t rows);

/* Four values to a word; missing ones are 0. */
CS_INLINE void cs_pack16(const int16_t *x, uint32_t n, uint64_t *words)
{
    uint32_t i;
    for (i = 0; i + 4u <= n; i += 4u) {
        *words++ = (uint64_t)cs_pack(x[i + 2u], x[i + 3u]) << 32 | cs_pack(x[i], x[i + 1u]);
    }
    if (i < n) {
        const int32_t second = i + 1u < n ? x[i + 1u] : 0;
        const int32_t third = i + 2u < n ? x[i + 2u] : 0;
        *words = (uint64_t)cs_pack(third, 0) << 32 | cs_pack(x[i], second);
    }
}

/* Bytes 1 and 3, sign-extended to two int16. */
CS_INLINE uint32_t cs_odd_bytes(uint32_t word)
{
#if CS_DSP && !defined(CS_DSP_EMULATION)
    uint32_t result;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word));
    return result;
#else
    return cs_even_bytes(word >> 8 | word << 24);
#endif
}

CS_INLINE void cs_two_columns16(uint64_t w, uint32_t v, uint32_t acc[4])
{
    acc[0] = cs_dual_mac(cs_even_bytes((uint32_t)w), v, acc[0]);
    acc[1] = cs_dual_mac(cs_odd_bytes((uint32_t)w), v, acc[1]);
    acc[2] = cs_dual_mac(cs_even_bytes((uint32_t)(w >> 32)), v, acc[2]);
    acc[3] = cs_dual_mac(cs_odd_bytes((uint32_t)(w >> 32)), v, acc[3]);
}

/* Four columns of int8 weights. */
CS_INLINE void cs_four_columns16(const uint64_t **w, const uint64_t **v, uint32_t acc[4])
{
#if CS_DSP_LOADS
    __asm("ldmia %0!, {r4, r5, r6, r8}\n\t"
          "ldmia %1!, {r9, r10}\n\t"
          "sxtb16 r12, r4\n\t"
          "sxtb16 r4, r4, ror #8\n\t"
          "smlad %2, r12, r9, %2\n\t"
          "sxtb16 r12, r5\n\t"
          "smlad %3, r4, r9, %3\n\t"
          "sxtb16 r5, r5, ror #8\n\t"
          "smlad %4, r12, r9, %4\n\t"
          "sxtb16 r12, r6\n\t"
          "smlad %5, r5, r9, %5\n\t"
          "sxtb16 r6, r6, ror #8\n\t"
          "smlad %2, r12, r10, %2\n\t"
          "sxtb16 r12, r8\n\t"
          "smlad %3, r6, r10, %3\n\t"
          "sxtb16 r8, r8, ror #8\n\t"
          "smlad %4, r12, r10, %4\n\t"
          "smlad %5, r8, r10, %5"
          : "+r"(*w), "+r"(*v), "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
          :
          : "r4", "r5", "r6", "r8", "r9", "r10", "r12", "memory");
#elif CS_NARROW_LOADS
    const int8_t *b = (const int8_t *)*w;
    const cs_half_word *x = (const cs_half_word *)*v;
    const int32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
    acc[0] += (uint32_t)(b[0] * x0) + (uint32_t)(b[2] * x1) + (uint32_t)(b[8] * x2) + (uint32_t)(b[10] * x3);
    acc[1] += (uint32_t)(b[1] * x0) + (uint32_t)(b[3] * x1) + (uint32_t)(b[9] * x2) + (uint32_t)(b[11] * x3);
    acc[2] += (uint32_t)(b[4] * x0) + (uint32_t)(b[6] * x1) + (uint32_t)(b[12] * x2) + (uint32_t)(b[14] * x3);
    acc[3] += (uint32_t)(b[5] * x0) + (uint32_t)(b[7] * x1) + (uint32_t)(b[13] * x2) + (uint32_t)(b[15] * x3);
    *w += 2;
    ++*v;
#else
    cs_two_columns16((*w)[0], (uint32_t)**v, acc);
    cs_two_columns16((*w)[1], (uint32_t)(**v >> 32), acc);
    *w += 2;
    ++*v;
#endif
}

/* acc[g] += row g . v, modulo 2^32, for 2 * pairs columns. */
CS_INLINE const uint64_t *cs_rows16(uint32_t wide, const uint64_t *w, const uint64_t *v, uint32_t pairs, uint32_t acc[4])
{
    uint32_t a[4];
    uint32_t i;
    a[0] = acc[0];
    a[1] = acc[1];
    a[2] = acc[2];
    a[3] = acc[3];
    CS_UNROLL
    for (i = 0; i < pairs / 2u; ++i) {
        if (wide != 0u) {
            cs_four_columns_wide(&w, &v, a);
        } else {
            cs_four_columns16(&w, &v, a);
        }
    }
    if ((pairs & 1u) != 0u) {
        const uint32_t last = (uint32_t)*v;
        if (wide != 0u) {
            a[0] = cs_dual_mac((uint32_t)w[0], last, a[0]);
            a[1] = cs_dual_mac((uint32_t)(w[0] >> 32), last, a[1]);
            a[2] = cs_dual_mac((uint32_t)w[1], last, a[2]);
            a[3] = cs_dual_mac((uint32_t)(w[1] >> 32), last, a[3]);
            w += 2;
        } else {
            cs_two_columns16(*w++, last, a);
        }
    }
    acc[0] = a[0];
    acc[1] = a[1];
    acc[2] = a[2];
    acc[3] = a[3];
    return w;
}

#define CS_DEEP_CHUNK 254u /* pairs of columns whose sum stays below 2^31: 508 * 128 * 2^15 */

/* acc[g] = row g . v + bias in 64 bits. */
CS_INLINE const uint64_t *cs_rows16_deep(cs_part16 part, const uint64_t *w, const uint64_t *v, int64_t acc[4])
{
    const uint32_t pairs = (part.columns + 1u) / 2u;
    uint32_t first, g;
    for (g = 0; g < 4u; ++g) {
        acc[g] = (int64_t)w[g];
    }
    w += 4;
    for (first = 0; first < pairs; first += CS_DEEP_CHUNK) {
        const uint32_t left = pairs - first;
        uint32_t chunk[4] = {0, 0, 0, 0};
        w = cs_rows16(part.wide, w, v + first / 2u, left < CS_DEEP_CHUNK ? left : CS_DEEP_CHUNK, chunk);
        for (g = 0; g < 4u; ++g) {
            acc[g] += (int32_t)chunk[g];
        }
    }
    return w;
}

/* The result fits 32 bits: the generator has made sure. */
CS_INLINE int32_t cs_rescale64(int64_t v, int32_t m, uint32_t shift)
{
    return (int32_t)((v * m + (int64_t)((uint64_t)1 << (shift - 1u))) >> shift);
}

CS_INLINE int32_t cs_rescale32(int32_t v, int32_t m, uint32_t shift)
{
    return shift == 32u ? cs_multiply_high_add(v, m, 0) : cs_rescale64(v, m, shift);
}

/* out[g] = the rescaled sums of a record's four rows. Gives the next record. */
CS_INLINE const uint64_t *cs_record16(cs_part16 part, const uint64_t *w, const uint64_t *v, const int32_t m[4],
                                      const uint8_t shift[4], int32_t out[4])
{
    if (part.deep != 0u) {
        int64_t acc[4];
        w = cs_rows16_deep(part, w, v, acc);
        out[0] = cs_rescale64(acc[0], m[0], shift[0]);
        out[1] = cs_rescale64(acc[1], m[1], shift[1]);
        out[2] = cs_rescale64(acc[2], m[2], shift[2]);
        out[3] = cs_rescale64(acc[3], m[3], shift[3]);
    } else {
        uint32_t acc[4];
        acc[0] = (uint32_t)w[0];
        acc[2] = (uint32_t)(w[0] >> 32);
        acc[1] = (uint32_t)w[1];
        acc[3] = (uint32_t)(w[1] >> 32);
        w = cs_rows16(part.wide, w + 2, v, (part.columns + 1u) / 2u, acc);
        out[0] = cs_rescale32((int32_t)acc[0], m[0], shift[0]);
        out[1] = cs_rescale32((int32_t)acc[1], m[1], shift[1]);
        out[2] = cs_rescale32((int32_t)acc[2], m[2], shift[2]);
        out[3] = cs_rescale32((int32_t)acc[3], m[3], shift[3]);
    }
    CS_ORDER();
    return w;
}

CS_INLINE int32_t cs_gate16(int32_t input, int32_t recurrent)
{
    return cs_saturate16(cs_saturate16(input, 0) + cs_saturate16(recurrent, 0), 0);
}

CS_INLINE void cs_lstm16_step(const cs_lstm16 *op, const cs_lstm16_constants *k, const int16_t *x, const int16_t *hidden,
                              int16_t *cell, int16_t *next, uint64_t *words)
{
    const uint32_t units = k->cell.units;
    uint64_t *const hidden_words = words + (k->input.columns + 3u) / 4u;
    const uint64_t *w;
    const uint32_t *middle = sigmoid_segments + CS_SEGMENTS / 2;
    int32_t offset = CS_SIGMOID_OFFSET;
    uint32_t n;
    CS_OPAQUE(op);
    CS_OPAQUE(middle);
    CS_OPAQUE(offset);
    w = op->weights;
    cs_pack16(x, k->input.columns, words);
    cs_pack16(hidden, units, hidden_words);
    for (n = 0; n < units; ++n) {
        int32_t in[4], re[4];
        int32_t i, f, g, o, c, y;
        w = cs_record16(k->input, w, words, op->m, k->shift, in);
        w = cs_record16(k->recurrent, w, hidden_words, op->m + 4, k->shift + 4, re);
        i = cs_sigmoid(cs_gate16(in[0], re[0]), middle, offset);
        g = cs_tanh(6 * cs_gate16(in[2], re[2]), middle);
        f = cs_sigmoid(cs_gate16(in[1], re[1]), middle, offset);
        c = cs_next_cell(&k->cell, *cell, i, f, g);
        *cell++ = (int16_t)c;
        o = cs_sigmoid(cs_gate16(in[3], re[3]), middle, offset);
        y = cs_tanh(cs_tanh_argument(c, k->cell.tanh_factor, k->cell.tanh_shift), middle);
        y = cs_scale_product(o, y, k->cell.hidden_scale);
        *next++ = (int16_t)cs_saturate16(y, cs_product_shift(k->cell.hidden_scale));
    }
}

/* Whole sequence from the initial state, as cs_lstm_run. */
CS_INLINE void cs_lstm16_run(cs_lstm16_step_fn step_fn, const cs_lstm16_constants *k, uint32_t layer, uint32_t steps,
                             const int16_t *x, int16_t *hidden, int16_t *cell, int16_t *rows, uint64_t *words,
                             cs_step16_fn on_step, void *context)
{
    const uint32_t units = k->cell.units;
    const int16_t *previous = hidden;
    uint32_t t;
    cs_state16_reset(hidden, cell, units);
    for (t = 0; t < steps; ++t) {
        int16_t *next = rows != NULL ? rows + (size_t)t * units : hidden;
        step_fn(x, previous, cell, next, words);
        if (on_step != NULL) {
            on_step(context, (uint16_t)layer, (uint16_t)t, next, (uint16_t)units);
        }
        x += k->input.columns;
        previous = next;
    }
    if (rows != NULL) {
        cs_copy16(previous, hidden, units);
    }
}

/* Applied to each of `rows` rows (time steps) of x. `m` and `shift` are one scale, or one an output and none past them. */
CS_INLINE void cs_dense16_run(const cs_dense16 *k, const uint64_t *weights, const cs_scale64 *scales, const int16_t *x,
                              int16_t *y, uint32_t rows, uint64_t *words)
{
    for (; rows > 0u; --rows) {
        const uint64_t *w = weights;
        uint32_t first, g;
        cs_pack16(x, k->input.columns, words);
        for (first = 0; first < k->outputs; first += 4u) {
            const uint32_t left = k->outputs - first;
            int32_t m[4], out[4];
            uint8_t shift[4];
            for (g = 0; g < 4u; ++g) {
                const cs_scale64 *s = scales + (k->per_channel != 0u && g < left ? first + g : 0u);
                m[g] = s->m;
                shift[g] = s->shift;
            }
            w = cs_record16(k->input, w, words, m, shift, out);
            for (g = 0; g < 4u && g < left; ++g) {
                y[first + g] = (int16_t)cs_clamp(out[g], k->act_min, k->act_max);
            }
        }
        x += k->input.columns;
        y += k->outputs;
    }
}

#ifdef __cplusplus
}
#endif

#endif
