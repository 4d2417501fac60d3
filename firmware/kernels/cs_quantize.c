#include "cs_quantize.h"

#include <string.h>

/* By its bits: -ffast-math would drop x != x. */
static int is_nan(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7FFFFFFFu) > 0x7F800000u;
}

static int8_t quantize(float x, float scale, int32_t zero_point)
{
    float v, fraction;
    int32_t q;
    if (is_nan(x)) {
        return (int8_t)zero_point;
    }
    v = x / scale;
    /* Beyond +-256 every zero point saturates; within, conversion and remainder are exact. */
    if (v >= 256.0f) {
        return 127;
    }
    if (v <= -256.0f) {
        return -128;
    }
    q = (int32_t)v;
    fraction = v - (float)q;
    if (fraction >= 0.5f) {
        ++q;
    } else if (fraction <= -0.5f) {
        --q;
    }
    q += zero_point;
    return (int8_t)(q < -128 ? -128 : (q > 127 ? 127 : q));
}

void cs_quantize(const float *x, int8_t *q, uint32_t n, float scale, int32_t zero_point)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        q[i] = quantize(x[i], scale, zero_point);
    }
}

void cs_dequantize(const int8_t *q, float *y, uint32_t n, float scale, int32_t zero_point)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        y[i] = scale * (float)(q[i] - zero_point);
    }
}
