#include "cs_kernels.h"

int32_t cs_dot_s8(const int8_t *a, const int8_t *b, uint32_t n)
{
    int32_t acc = 0;
    uint32_t i;
    for (i = 0; i < n; ++i) {
        acc += (int32_t)a[i] * b[i];
    }
    return acc;
}

void cs_dot4_s8(const int8_t *rows, const int8_t *v, uint32_t n, int32_t acc[4])
{
    const int8_t *r0 = rows;
    const int8_t *r1 = r0 + n;
    const int8_t *r2 = r1 + n;
    const int8_t *r3 = r2 + n;
    int32_t a0 = acc[0];
    int32_t a1 = acc[1];
    int32_t a2 = acc[2];
    int32_t a3 = acc[3];
    uint32_t i;
    for (i = 0; i < n; ++i) {
        const int32_t x = v[i];
        a0 += r0[i] * x;
        a1 += r1[i] * x;
        a2 += r2[i] * x;
        a3 += r3[i] * x;
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}
