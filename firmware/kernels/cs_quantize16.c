#include "cs_quantize16.h"

#include <string.h>

/* By its bits: -ffast-math would drop x != x. */
static int is_nan(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7FFFFFFFu) > 0x7F800000u;
}

static int16_t quantize(float x, float scale)
{
    float v, fraction;
    int32_t q;
    if (is_nan(x)) {
        return 0;
    }
    v = x / scale;
    if (v >= 32767.0f) {
        return 32767;
    }
    if (v <= -32768.0f) {
        return -32768;
    }
    /* Conversion and remainder are exact here, and rounding stays within 16 bits. */
    q = (int32_t)v;
    fraction = v - (float)q;
    if (fraction >= 0.5f) {
        ++q;
    } else if (fraction <= -0.5f) {
        --q;
    }
    return (int16_t)q;
}

void cs_quantize16(const float *x, int16_t *q, uint32_t n, float scale)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        q[i] = quantize(x[i], scale);
    }
}

void cs_dequantize16(const int16_t *q, float *y, uint32_t n, float scale)
{
    uint32_t i;
    for (i = 0; i < n; ++i) {
        y[i] = scale * (float)q[i];
    }
}
