/* Conversion between float32 and int8. The only floating point of a generated model; needs no maths library. */
#ifndef CS_QUANTIZE_H
#define CS_QUANTIZE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* q = clamp(round(x / scale) + zero_point, -128, 127): one single-precision division, ties away from zero; NaN gives
 * the zero point. */
void cs_quantize(const float *x, int8_t *q, uint32_t n, float scale, int32_t zero_point);

/* y = scale * (q - zero_point), rounded once to single precision. */
void cs_dequantize(const int8_t *q, float *y, uint32_t n, float scale, int32_t zero_point);

#ifdef __cplusplus
}
#endif

#endif
