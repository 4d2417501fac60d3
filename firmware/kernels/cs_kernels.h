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

/* Zero points are folded into the biases: bias - zero_point * (sum of the row's weights). */
typedef struct {
    uint16_t layer; /* number of the LSTM in the model, from 0 */
    uint16_t steps;
    uint16_t features;
    uint16_t units;
    const int8_t *input_weights;     /* [units][4][features] */
    const int8_t *recurrent_weights; /* [units][4][units] */
    const int32_t *input_bias;       /* [units][4] */
    const int32_t *recurrent_bias;   /* [units][4] */
    cs_multiplier input_scale[4];    /* to Q3.12 */
    cs_multiplier recurrent_scale[4]; /* to Q3.12 */
    cs_multiplier forget_scale;       /* f * c to the cell */
    cs_multiplier update_scale;       /* i * g to the cell */
    cs_multiplier hidden_scale;       /* o * tanh(c) to the hidden state */
    int32_t tanh_factor;              /* cell * tanh_factor / 2^tanh_shift is the tanh table's argument */
    uint8_t tanh_shift;
    int8_t hidden_zero_point;
    int16_t cell_clip; /* 0: none */
} cs_lstm;

typedef struct {
    uint16_t rows; /* time steps: the layer is applied to each row of the input */
    uint16_t inputs;
    uint16_t outputs;
    uint8_t per_channel; /* scale has `outputs` entries instead of one */
    const int8_t *weights; /* [outputs][inputs] */
    const int32_t *bias;   /* [outputs] */
    const cs_multiplier *scale;
    int8_t output_zero_point;
    int8_t act_min;
    int8_t act_max;
} cs_dense;

typedef struct {
    uint16_t rows;
    uint16_t classes;
    uint16_t table_size; /* exponentials of larger differences are 0 */
    const int32_t *exp_table; /* exp_table[d] = exp(-d * beta * input scale) in Q0.31 */
} cs_softmax;

/* Dot products; these are the routines that a DSP version replaces. */
int32_t cs_dot_s8(const int8_t *a, const int8_t *b, uint32_t n);
/* acc[r] += dot(rows + r * n, v) for the four rows of `rows`. */
void cs_dot4_s8(const int8_t *rows, const int8_t *v, uint32_t n, int32_t acc[4]);

/* Q3.12 -> Q0.15. */
int32_t cs_sigmoid_q15(int32_t x);
/* The argument is (x * factor) / 2^shift rounded half up, in units of 1/12288; -> Q0.15. */
int32_t cs_tanh_q15(int32_t x, int32_t factor, uint32_t shift);

/* One time step: reads h (NULL: the initial state) and cell, updates cell, writes h_next, which must not overlap h. */
void cs_lstm_step(const cs_lstm *op, const int8_t *x, const int8_t *h, int16_t *cell, int8_t *h_next);

/* Whole sequence from the initial state. With keep_sequence, `rows` takes the hidden states, steps * units values;
 * without, it has 2 * units values, used in turn: the last state is in row (steps - 1) & 1. `on_step` may be NULL. */
void cs_lstm_run(const cs_lstm *op, const int8_t *x, int16_t *cell, int8_t *rows, int keep_sequence,
                 cs_step_fn on_step, void *context);

void cs_dense_run(const cs_dense *op, const int8_t *x, int8_t *y);

/* y may be x. */
void cs_softmax_run(const cs_softmax *op, const int8_t *x, int8_t *y);

/* y[i] = table[x[i] + 128]; y may be x. */
void cs_lookup_run(const int8_t *table, const int8_t *x, int8_t *y, uint32_t n);

void cs_copy(const int8_t *x, int8_t *y, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
