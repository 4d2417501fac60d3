/* Conversion between float32 and int16 with zero point 0. Needs no maths library. */
#ifndef CS_QUANTIZE16_H
#define CS_QUANTIZE16_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* q = clamp(round(x / scale), -32768, 32767): one single-precision division, ties away from zero; NaN gives 0. */
void cs_quantize16(const float *x, int16_t *q, uint32_t n, float scale);

/* y = scale * q, rounded once to single precision. */
void cs_dequantize16(const int16_t *q, float *y, uint32_t n, float scale);

#ifdef __cplusplus
}
#endif

#endif
