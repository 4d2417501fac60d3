#include "cs_kernels.h"

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

uint8_t *cs_state_get(const int8_t *hidden, const int16_t *cell, uint32_t units, uint8_t *state)
{
    uint32_t i;
    for (i = 0; i < units; ++i) {
        const uint32_t c = (uint32_t)cell[i];
        state[i] = (uint8_t)hidden[i];
        state[units + 2u * i] = (uint8_t)(c & 0xFFu);
        state[units + 2u * i + 1u] = (uint8_t)((c >> 8) & 0xFFu);
    }
    return state + 3u * units;
}

const uint8_t *cs_state_set(int8_t *hidden, int16_t *cell, uint32_t units, const uint8_t *state)
{
    uint32_t i;
    for (i = 0; i < units; ++i) {
        hidden[i] = (int8_t)state[i];
        cell[i] = (int16_t)(uint16_t)(state[units + 2u * i] | (uint32_t)state[units + 2u * i + 1u] << 8);
    }
    return state + 3u * units;
}

void cs_state_reset(int8_t *hidden, int16_t *cell, uint32_t units, int8_t zero_point)
{
    uint32_t i;
    for (i = 0; i < units; ++i) {
        hidden[i] = zero_point;
        cell[i] = 0;
    }
}
