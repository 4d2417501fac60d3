#include "codesign_model.h"

#ifndef STUB_FLASH_BYTES
#define STUB_FLASH_BYTES 4
#endif
#ifndef STUB_RAM_BYTES
#define STUB_RAM_BYTES 4
#endif

static const uint8_t hash[32] = {0xAB, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                                 16,   17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 0xCD};
static const uint8_t weights[STUB_FLASH_BYTES] = {1};
static volatile uint8_t scratch[STUB_RAM_BYTES];
static volatile int initialised = 17; /* in .data: shows that the start-up code copied it */

void cs_model_init(void)
{
    const volatile uint8_t *first = weights; /* keeps the array */
    scratch[0] = (uint8_t)(*first + scratch[STUB_RAM_BYTES - 1]);
}

static uint8_t stream_state[2];

void cs_model_reset(void)
{
    stream_state[0] = 0;
    stream_state[1] = 0;
}

void cs_model_step(const int8_t *input, int8_t *output)
{
    for (int i = 0; i < CS_MODEL_FEATURES; i++) {
        stream_state[0] = (uint8_t)(stream_state[0] + (uint8_t)input[i]);
    }
    stream_state[1]++;
    output[0] = (int8_t)stream_state[0];
    output[1] = (int8_t)stream_state[1];
}

void cs_model_get_state(uint8_t *state)
{
    state[0] = stream_state[0];
    state[1] = stream_state[1];
}

void cs_model_set_state(const uint8_t *state)
{
    stream_state[0] = state[0];
    stream_state[1] = state[1];
}

const uint8_t *cs_model_hash(void)
{
    return hash;
}

void cs_model_quantize_input(const float *x, int8_t *q)
{
    for (int i = 0; i < CS_MODEL_INPUT_SIZE; i++) {
        q[i] = x[i] >= -128.0f && x[i] <= 127.0f ? (int8_t)x[i] : 0;
    }
}

void cs_model_dequantize_output(const int8_t *q, float *y)
{
    for (int i = 0; i < CS_MODEL_OUTPUT_SIZE; i++) {
        y[i] = (float)q[i];
    }
}

__attribute__((noinline)) int stub_overflow(int depth)
{
    volatile int frame[16];
    frame[0] = depth;
    return depth < 0 ? 0 : stub_overflow(depth + 1) + frame[0];
}

void cs_model_invoke_traced(const int8_t *input, int8_t *output, cs_trace_fn trace, void *context)
{
    int sum = 0;
    for (int i = 0; i < CS_MODEL_INPUT_SIZE; i++) {
        sum += input[i];
        if (trace != 0 && i % CS_MODEL_FEATURES == CS_MODEL_FEATURES - 1) {
            const int8_t hidden[2] = {(int8_t)(sum & 0x3F), (int8_t)i};
            trace(context, 0, (uint16_t)(i / CS_MODEL_FEATURES), hidden, 2);
        }
    }
    for (int i = 0; i < CS_MODEL_OUTPUT_SIZE; i++) {
        output[i] = (int8_t)((sum + i + initialised) & 0x3F);
    }
}

void cs_model_invoke(const int8_t *input, int8_t *output)
{
#if defined(__arm__)
    if (input[0] == STUB_BAD_READ) {
        output[0] = *(const volatile int8_t *)0xF0000000u;
        return;
    }
    if (input[0] == STUB_OVERFLOW) {
        output[0] = (int8_t)(stub_overflow(0) & 1);
        return;
    }
    if (input[0] == STUB_LOOP) {
        uint32_t count = STUB_LOOP_COUNT; /* two instructions each */
        __asm volatile(".syntax unified\n1: subs %0, %0, #1\n bne 1b" : "+l"(count)::"cc");
    }
#endif
    cs_model_invoke_traced(input, output, 0, 0);
}
