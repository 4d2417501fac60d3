/* A stand-in with the generated API whose results are easy to predict, and which can be told to misbehave. */
#ifndef CODESIGN_MODEL_H
#define CODESIGN_MODEL_H

#include <stdint.h>

#define CS_MODEL_STEPS 3
#define CS_MODEL_FEATURES 4
#define CS_MODEL_INPUT_SIZE 12
#define CS_MODEL_OUTPUT_SIZE 5
#define CS_MODEL_LSTM_LAYERS 1

#define CS_MODEL_STREAMING 1
#define CS_MODEL_STEP_OUTPUT_SIZE 2
#define CS_MODEL_STATE_SIZE 2

#define STUB_BAD_READ 127
#define STUB_OVERFLOW 126
#define STUB_LOOP 125
#define STUB_LOOP_COUNT 360000000u

typedef int8_t cs_model_value_t;
typedef void (*cs_trace_fn)(void *context, uint16_t layer, uint16_t step, const int8_t *hidden, uint16_t units);

void cs_model_init(void);
void cs_model_reset(void);
void cs_model_quantize_input(const float *x, int8_t *q);
void cs_model_invoke(const int8_t *input, int8_t *output);
void cs_model_dequantize_output(const int8_t *q, float *y);
const uint8_t *cs_model_hash(void);
void cs_model_invoke_traced(const int8_t *input, int8_t *output, cs_trace_fn trace, void *context);
/* The sum of all inputs since the reset, and the number of steps. */
void cs_model_step(const int8_t *input, int8_t *output);
void cs_model_get_state(uint8_t *state);
void cs_model_set_state(const uint8_t *state);
/* Recurses without end. */
int stub_overflow(int depth);

#endif
