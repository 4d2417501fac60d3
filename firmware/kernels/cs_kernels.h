/* Integer kernels of the generated model: int8 activations and weights, int32 accumulators, int16 LSTM cell.
 * No heap, no floating point, no recursion. Gate order is i, f, c, o. */
#ifndef CS_KERNELS_H
#define CS_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Effective scale m * 2^(left - right - 31); at most one of left and right is not 0. */
typedef struct {
    int32_t m;
    uint8_t left;
    uint8_t right;
} cs_multiplier;

/* Called after each LSTM step with the new hidden state. */
typedef void (*cs_step_fn)(void *context, uint16_t layer, uint16_t step, const int8_t *hidden, uint16_t units);

/* Weights are packed for the kernels, two int16 to a half of a 64-bit word and low parts first:
 * - paired (int8): the two int16 are two columns, and each is a + 256 * b for two rows a and b;
 * - wide (int16): the two int16 are two columns of one row.
 * Zero points are folded into the biases: bias - zero_point * (sum of the row's weights). */
typedef struct {
    int32_t m;
    int32_t half; /* 2^(right - 1), or 0 */
} cs_scale_pair;

/* An LSTM's data. `weights` has a record for each unit, for the input and then the recurrent part: biases of gates i and c,
 * [columns / 2, rounded up][paired: 1, wide: 2] words of weights, biases of gates f and o (wide: before the weights).
 * Biases are doubled. */
typedef struct {
    const uint64_t *weights;
    cs_scale_pair scales[9]; /* the scales of cs_lstm_constants that are no powers of two: input, recurrent, hidden */
} cs_lstm;

/* The numbers of an LSTM: constants where its step is compiled (cs_lstm.h). */
typedef struct {
    uint16_t features;
    uint16_t units;
    uint8_t input_wide; /* layout of the weights */
    uint8_t recurrent_wide;
    cs_multiplier input_scale[4];     /* to Q3.12 */
    cs_multiplier recurrent_scale[4]; /* to Q3.12 */
    cs_multiplier forget_scale;       /* f * c to the cell */
    cs_multiplier update_scale;       /* i * g to the cell */
    cs_multiplier hidden_scale;       /* o * tanh(c) to the hidden state */
    int32_t tanh_factor;              /* cell * tanh_factor / 2^tanh_shift is the tanh's argument in 1/12288 */
    uint8_t tanh_shift;
    int8_t hidden_zero_point;
    uint8_t hidden_folded; /* scales[8].half contains the zero point */
    int16_t cell_clip; /* 0: none */
} cs_lstm_constants;

/* One time step: reads x, hidden and cell, updates cell, writes `next`, which may be `hidden`. `wide` is working memory of
 * (features + 3) / 4 + (units + 3) / 4 words. */
typedef void (*cs_lstm_step_fn)(const int8_t *x, const int8_t *hidden, int16_t *cell, int8_t *next, uint64_t *wide);

/* An output's scale: m * 2^(left - right - 31), and 2^(right - 1) or 0. */
typedef struct {
    int32_t m;
    int32_t half;
    uint8_t left;
    uint8_t right;
} cs_dense_scale;

/* A dense layer's data. Weights are in blocks of 4 outputs, then at most one of 2; missing outputs and columns are 0. Columns
 * go by fours, halves being columns 0 and 2, 1 and 3; a block of 4 has a word for each half (paired) or two (wide), a block
 * of 2 a word for both or each. */
typedef struct {
    const uint64_t *weights;
    const int32_t *bias; /* [outputs] */
    const cs_dense_scale *scale; /* [outputs], or one */
} cs_dense_data;

/* The numbers of a dense layer: constants where it is compiled (cs_dense.h). */
typedef struct {
    uint16_t inputs;
    uint16_t outputs;
    uint8_t per_channel; /* scale has `outputs` entries instead of one */
    uint8_t wide;        /* layout of the weights */
    uint8_t fine;        /* every scale has left 0 and right > 0 */
    int8_t output_zero_point;
    int8_t act_min;
    int8_t act_max;
} cs_dense;

typedef struct {
    uint16_t classes;
    uint16_t table_size; /* exponentials of larger differences are 0; exp_table[d] = exp(-d * beta * input scale), Q0.31 */
} cs_softmax;

/* Line segments of TFLM's int16 sigmoid, for arguments in 1/12288; see cs_tables.c. */
#define CS_SEGMENTS 512
extern const uint32_t sigmoid_segments[CS_SEGMENTS];

/* 2^31 / (1 + a) in Q0.31, where the sum of exponentials is (1 + a) * 2^(31 - zeros). */
int32_t cs_softmax_scale(uint32_t sum, uint32_t *zeros);

/* y[i] = table[x[i] + 128]; y may be x. */
void cs_lookup_run(const int8_t *table, const int8_t *x, int8_t *y, uint32_t n);

void cs_copy(const int8_t *x, int8_t *y, uint32_t n);

/* A layer's state as 3 * units bytes: hidden, then the cell's low and high bytes. Give the byte behind them. */
uint8_t *cs_state_get(const int8_t *hidden, const int16_t *cell, uint32_t units, uint8_t *state);
const uint8_t *cs_state_set(int8_t *hidden, int16_t *cell, uint32_t units, const uint8_t *state);
/* The initial state. */
void cs_state_reset(int8_t *hidden, int16_t *cell, uint32_t units, int8_t zero_point);

#ifdef __cplusplus
}
#endif

#endif
