#include "cs_fixed.h"

static int8_t dense_output(const cs_dense *op, int32_t acc, uint32_t output)
{
    const int32_t y = cs_multiply(acc, op->scale[op->per_channel != 0u ? output : 0u]) + op->output_zero_point;
    return (int8_t)cs_clamp(y, op->act_min, op->act_max);
}

void cs_dense_run(const cs_dense *op, const int8_t *x, int8_t *y)
{
    const uint32_t inputs = op->inputs;
    const uint32_t outputs = op->outputs;
    uint32_t row;
    for (row = 0; row < op->rows; ++row) {
        const int8_t *weights = op->weights;
        uint32_t k = 0;
        for (; k + 4u <= outputs; k += 4u) {
            int32_t acc[4];
            uint32_t r;
            for (r = 0; r < 4u; ++r) {
                acc[r] = op->bias[k + r];
            }
            cs_dot4_s8(weights, x, inputs, acc);
            for (r = 0; r < 4u; ++r) {
                y[k + r] = dense_output(op, acc[r], k + r);
            }
            weights += 4u * inputs;
        }
        for (; k < outputs; ++k) {
            y[k] = dense_output(op, op->bias[k] + cs_dot_s8(weights, x, inputs), k);
            weights += inputs;
        }
        x += inputs;
        y += outputs;
    }
}

void cs_lookup_run(const int8_t *table, const int8_t *x, int8_t *y, uint32_t n)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        y[i] = table[x[i] + 128];
    }
}

void cs_copy(const int8_t *x, int8_t *y, uint32_t n)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        y[i] = x[i];
    }
}
