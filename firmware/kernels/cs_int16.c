#include "cs_int16.h"

void cs_copy16(const int16_t *x, int16_t *y, uint32_t n)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        y[i] = x[i];
    }
}

static uint8_t *put(const int16_t *values, uint32_t n, uint8_t *bytes)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        const uint32_t v = (uint32_t)values[i];
        *bytes++ = (uint8_t)(v & 0xFFu);
        *bytes++ = (uint8_t)((v >> 8) & 0xFFu);
    }
    return bytes;
}

static const uint8_t *take(int16_t *values, uint32_t n, const uint8_t *bytes)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        values[i] = (int16_t)(uint16_t)(bytes[0] | (uint32_t)bytes[1] << 8);
        bytes += 2;
    }
    return bytes;
}

uint8_t *cs_state16_get(const int16_t *hidden, const int16_t *cell, uint32_t units, uint8_t *state)
{
    return put(cell, units, put(hidden, units, state));
}

const uint8_t *cs_state16_set(int16_t *hidden, int16_t *cell, uint32_t units, const uint8_t *state)
{
    return take(cell, units, take(hidden, units, state));
}

void cs_state16_reset(int16_t *hidden, int16_t *cell, uint32_t units)
{
    uint32_t i;
    for (i = 0; i < units; ++i) {
        hidden[i] = 0;
        cell[i] = 0;
    }
}

/* From here on TFLM's sigmoid is constant, and not what its last segment would give. An LSTM's gates stay below. */
#define CS_SIGMOID_END (255 << 9)

/* The argument in 1/12288, up to where both functions are constant. */
static int32_t argument_of(cs_argument16 a, int32_t q)
{
    const int32_t half = a.shift == 0u ? 0 : (int32_t)((uint32_t)1 << (a.shift - 1u));
    return cs_clamp((int32_t)(((int64_t)q * a.m + half) >> a.shift), -131072, 131071);
}

void cs_sigmoid16_run(cs_argument16 argument, const int16_t *x, int16_t *y, uint32_t n)
{
    const uint32_t *middle = sigmoid_segments + CS_SEGMENTS / 2;
    uint32_t i;
    for (i = 0; i < n; ++i) {
        const int32_t d = argument_of(argument, x[i]);
        if (d >= CS_SIGMOID_END || d <= -CS_SIGMOID_END) {
            y[i] = d < 0 ? 1 : 32767;
        } else {
            y[i] = (int16_t)(cs_sigmoid_at(d, middle, CS_SIGMOID_OFFSET) >> 16);
        }
    }
}

void cs_tanh16_run(cs_argument16 argument, const int16_t *x, int16_t *y, uint32_t n)
{
    const uint32_t *middle = sigmoid_segments + CS_SEGMENTS / 2;
    uint32_t i;
    for (i = 0; i < n; ++i) {
        y[i] = (int16_t)cs_tanh(2 * argument_of(argument, x[i]), middle);
    }
}

void cs_relu16_run(cs_multiplier scale, const int16_t *x, int16_t *y, uint32_t n)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        y[i] = (int16_t)cs_clamp(cs_rescale(2 * x[i], scale), 0, 32767);
    }
}

/* Between entries 256 + v / 128 and the next. */
static int32_t lookup(const int16_t *table, int32_t v)
{
    const int16_t *entry = table + 256 + (v >> 7);
    return entry[0] + (((entry[1] - entry[0]) * (v & 127) + 64) >> 7);
}

static uint32_t bit_length(uint32_t v)
{
    uint32_t n = 0;
    for (; v != 0u; v >>= 1) {
        ++n;
    }
    return n;
}

void cs_softmax16_run(cs_multiplier scale, const int16_t *exp_table, const int16_t *reciprocal_table, const int16_t *x,
                      int16_t *y, uint32_t classes, uint32_t rows)
{
    for (; rows > 0u; --rows) {
        int32_t max = x[0];
        uint32_t sum = 0; /* Q16.15; each term is below 2^15 and there are below 2^16 */
        uint32_t bits, k;
        int32_t mantissa, reciprocal;
        for (k = 1; k < classes; ++k) {
            max = x[k] > max ? x[k] : max;
        }
        for (k = 0; k < classes; ++k) {
            const int32_t v = cs_rescale(2 * (x[k] - max), scale) + 32767;
            const int32_t exponential = lookup(exp_table, cs_clamp(v, -32768, 32767));
            y[k] = (int16_t)exponential;
            sum += (uint32_t)exponential;
        }
        /* sum = 2^(bits - 16) * (1 + a), a in [0, 1) */
        bits = bit_length(sum);
        mantissa = (int32_t)(((sum << (31u - bits)) + 8192u) >> 14) - 98304;
        reciprocal = lookup(reciprocal_table, cs_clamp(mantissa, -32768, 32767));
        for (k = 0; k < classes; ++k) {
            const int32_t p = (y[k] * reciprocal + (int32_t)((uint32_t)1 << (bits - 2u))) >> (bits - 1u);
            y[k] = (int16_t)cs_clamp(p, 0, 32767);
        }
        x += classes;
        y += classes;
    }
}
