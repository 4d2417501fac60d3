#include <stddef.h>

#include "cs_fixed.h"

/* Interpolation knots of TFLM's int16 sigmoid, Q0.16 at multiples of 1/24; some differ from the rounded value. */
static const uint16_t sigmoid_knots[256] = {
    32768, 33451, 34133, 34813, 35493, 36169, 36843, 37513, 38180, 38841, 39498, 40149, 40794, 41432, 42064, 42688,
    43304, 43912, 44511, 45102, 45683, 46255, 46817, 47369, 47911, 48443, 48964, 49475, 49975, 50464, 50942, 51409,
    51865, 52311, 52745, 53169, 53581, 53983, 54374, 54755, 55125, 55485, 55834, 56174, 56503, 56823, 57133, 57433,
    57724, 58007, 58280, 58544, 58800, 59048, 59288, 59519, 59743, 59959, 60168, 60370, 60565, 60753, 60935, 61110,
    61279, 61441, 61599, 61750, 61896, 62036, 62172, 62302, 62428, 62549, 62666, 62778, 62886, 62990, 63090, 63186,
    63279, 63368, 63454, 63536, 63615, 63691, 63765, 63835, 63903, 63968, 64030, 64090, 64148, 64204, 64257, 64308,
    64357, 64405, 64450, 64494, 64536, 64576, 64614, 64652, 64687, 64721, 64754, 64786, 64816, 64845, 64873, 64900,
    64926, 64950, 64974, 64997, 65019, 65039, 65060, 65079, 65097, 65115, 65132, 65149, 65164, 65179, 65194, 65208,
    65221, 65234, 65246, 65258, 65269, 65280, 65291, 65301, 65310, 65319, 65328, 65337, 65345, 65352, 65360, 65367,
    65374, 65381, 65387, 65393, 65399, 65404, 65410, 65415, 65420, 65425, 65429, 65433, 65438, 65442, 65445, 65449,
    65453, 65456, 65459, 65462, 65465, 65468, 65471, 65474, 65476, 65479, 65481, 65483, 65485, 65488, 65489, 65491,
    65493, 65495, 65497, 65498, 65500, 65501, 65503, 65504, 65505, 65507, 65508, 65509, 65510, 65511, 65512, 65513,
    65514, 65515, 65516, 65517, 65517, 65518, 65519, 65520, 65520, 65521, 65522, 65522, 65523, 65523, 65524, 65524,
    65525, 65525, 65526, 65526, 65526, 65527, 65527, 65528, 65528, 65528, 65529, 65529, 65529, 65529, 65530, 65530,
    65530, 65530, 65531, 65531, 65531, 65531, 65531, 65532, 65532, 65532, 65532, 65532, 65532, 65533, 65533, 65533,
    65533, 65533, 65533, 65533, 65533, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65535,
};

int32_t cs_sigmoid_q15(int32_t x)
{
    const int32_t d = 3 * x;
    const uint32_t a = (uint32_t)(d < 0 ? -d : d);
    const uint32_t n = a >> 9;
    uint32_t r;
    if (n >= 255u) {
        r = 0x7FFFu << 10;
    } else {
        const uint32_t low = sigmoid_knots[n];
        r = (low << 9) + (a & 511u) * (sigmoid_knots[n + 1u] - low);
    }
    r = d >= 0 ? r + 512u : ((uint32_t)1 << 25) - r + 511u;
    return (int32_t)(r >> 10);
}

int32_t cs_tanh_q15(int32_t x, int32_t factor, uint32_t shift)
{
    const int32_t half = shift == 0u ? 0 : (int32_t)((uint32_t)1 << (shift - 1u));
    const int32_t d = (x * factor + half) >> shift;
    const uint32_t a = (uint32_t)(d < 0 ? -d : d);
    const uint32_t n = a >> 8;
    int32_t r;
    if (n >= 255u) {
        r = (int32_t)(0xFFFFu << 8);
    } else {
        const uint32_t low = sigmoid_knots[n];
        r = (int32_t)((low << 8) + (a & 255u) * (sigmoid_knots[n + 1u] - low));
    }
    r = d >= 0 ? r - 8388608 + 128 : 8388608 + 127 - r;
    return r >> 8;
}

/* Adds the input and, past the first step, the recurrent contribution to the four gates of one unit. */
static void gate_pre_activations(const cs_lstm *op, uint32_t unit, const int8_t *x, const int8_t *h, int32_t gates[4])
{
    const uint32_t first = 4u * unit;
    int32_t acc[4];
    uint32_t g;
    for (g = 0; g < 4u; ++g) {
        acc[g] = op->input_bias[first + g];
    }
    cs_dot4_s8(op->input_weights + (size_t)first * op->features, x, op->features, acc);
    for (g = 0; g < 4u; ++g) {
        gates[g] = cs_sat16(cs_multiply(acc[g], op->input_scale[g]));
    }
    /* The initial state is at its zero point, where the recurrent contribution is exactly 0. */
    if (h == NULL) {
        return;
    }
    for (g = 0; g < 4u; ++g) {
        acc[g] = op->recurrent_bias[first + g];
    }
    cs_dot4_s8(op->recurrent_weights + (size_t)first * op->units, h, op->units, acc);
    for (g = 0; g < 4u; ++g) {
        gates[g] = cs_sat16(gates[g] + cs_sat16(cs_multiply(acc[g], op->recurrent_scale[g])));
    }
}

void cs_lstm_step(const cs_lstm *op, const int8_t *x, const int8_t *h, int16_t *cell, int8_t *h_next)
{
    uint32_t k;
    for (k = 0; k < op->units; ++k) {
        int32_t gates[4];
        int32_t i, f, g, o, c, y;
        gate_pre_activations(op, k, x, h, gates);
        i = cs_sigmoid_q15(gates[0]);
        f = cs_sigmoid_q15(gates[1]);
        g = cs_tanh_q15(gates[2], 3, 0);
        o = cs_sigmoid_q15(gates[3]);
        c = cs_sat16(cs_multiply(f * cell[k], op->forget_scale));
        c = cs_sat16(c + cs_sat16(cs_multiply(i * g, op->update_scale)));
        if (op->cell_clip > 0) {
            c = cs_clamp(c, -op->cell_clip, op->cell_clip);
        }
        cell[k] = (int16_t)c;
        y = cs_multiply(cs_tanh_q15(c, op->tanh_factor, op->tanh_shift) * o, op->hidden_scale);
        h_next[k] = (int8_t)cs_clamp(y + op->hidden_zero_point, -128, 127);
    }
}

void cs_lstm_run(const cs_lstm *op, const int8_t *x, int16_t *cell, int8_t *rows, int keep_sequence,
                 cs_step_fn on_step, void *context)
{
    const int8_t *h = NULL;
    uint32_t t, k;
    for (k = 0; k < op->units; ++k) {
        cell[k] = 0;
    }
    for (t = 0; t < op->steps; ++t) {
        int8_t *h_next = rows + (size_t)(keep_sequence != 0 ? t : (t & 1u)) * op->units;
        cs_lstm_step(op, x, h, cell, h_next);
        if (on_step != NULL) {
            on_step(context, op->layer, (uint16_t)t, h_next, op->units);
        }
        x += op->features;
        h = h_next;
    }
}
