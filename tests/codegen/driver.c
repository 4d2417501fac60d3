/* Runs a generated model on a stream: driver MODE < input > output; MODE is infer, trace, quantize, dequantize, hash,
 * twice (each input after a different one and a reset), stream (step by step; the last output where the model gives one for
 * the sequence), resume (the same, with the state saved, spoilt and restored before each step) or states (for each state and
 * step: the output and the next state). */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "codesign_model.h"

static cs_model_value_t input[CS_MODEL_INPUT_SIZE];
static cs_model_value_t output[CS_MODEL_OUTPUT_SIZE];
static float reals[CS_MODEL_INPUT_SIZE > CS_MODEL_OUTPUT_SIZE ? CS_MODEL_INPUT_SIZE : CS_MODEL_OUTPUT_SIZE];

#if CS_MODEL_STREAMING
static cs_model_value_t row[CS_MODEL_STEP_OUTPUT_SIZE];
static uint8_t state[CS_MODEL_STATE_SIZE + 1];
#endif

static void put(const void *data, size_t n)
{
    if (fwrite(data, 1, n, stdout) != n) {
        perror("fwrite");
    }
}

static void on_step(void *context, uint16_t layer, uint16_t step, const cs_model_value_t *hidden, uint16_t units)
{
    const uint16_t head[3] = {layer, step, units};
    ++*(int *)context;
    put(head, sizeof head);
    put(hidden, (size_t)units * CS_MODEL_VALUE_BYTES);
}

#if CS_MODEL_STREAMING
static void stream(int resume)
{
    int t, k;
    cs_model_reset();
    for (t = 0; t < CS_MODEL_STEPS; ++t) {
        const int last = t + 1 == CS_MODEL_STEPS;
        const int wanted = CS_MODEL_OUTPUT_SIZE != CS_MODEL_STEP_OUTPUT_SIZE || last;
        if (resume != 0) {
            cs_model_get_state(state);
            cs_model_step(input, row);
            cs_model_invoke(input, output);
            cs_model_set_state(state);
        }
        cs_model_step(input + t * CS_MODEL_FEATURES, wanted != 0 ? row : NULL);
        for (k = 0; k < CS_MODEL_STEP_OUTPUT_SIZE && wanted != 0; ++k) {
            output[last && CS_MODEL_OUTPUT_SIZE == CS_MODEL_STEP_OUTPUT_SIZE ? k : t * CS_MODEL_STEP_OUTPUT_SIZE + k] = row[k];
        }
        if (resume != 0) { /* the outputs so far are spoilt: send row by row */
            if (wanted != 0) {
                put(row, sizeof row);
            }
        }
    }
    if (resume == 0) {
        put(output, sizeof output);
    }
}
#endif

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    cs_model_init();
    if (strcmp(mode, "hash") == 0) {
        put(cs_model_hash(), 32);
    } else if (strcmp(mode, "infer") == 0) {
        while (fread(input, 1, sizeof input, stdin) == sizeof input) {
            cs_model_invoke(input, output);
            put(output, sizeof output);
        }
    } else if (strcmp(mode, "twice") == 0) {
        while (fread(input, 1, sizeof input, stdin) == sizeof input) {
            cs_model_reset();
            cs_model_invoke(input, output);
            cs_model_invoke(input, output);
            put(output, sizeof output);
        }
    } else if (strcmp(mode, "trace") == 0) {
        while (fread(input, 1, sizeof input, stdin) == sizeof input) {
            int calls = 0;
            cs_model_invoke_traced(input, output, on_step, &calls);
            put(output, sizeof output);
            if ((calls == 0) != (CS_MODEL_LSTM_LAYERS == 0)) {
                return 3;
            }
        }
    } else if (strcmp(mode, "quantize") == 0) {
        while (fread(reals, sizeof(float), CS_MODEL_INPUT_SIZE, stdin) == CS_MODEL_INPUT_SIZE) {
            cs_model_quantize_input(reals, input);
            put(input, sizeof input);
        }
    } else if (strcmp(mode, "dequantize") == 0) {
        while (fread(output, 1, sizeof output, stdin) == sizeof output) {
            cs_model_dequantize_output(output, reals);
            put(reals, sizeof(float) * CS_MODEL_OUTPUT_SIZE);
        }
#if CS_MODEL_STREAMING
    } else if (strcmp(mode, "stream") == 0 || strcmp(mode, "resume") == 0) {
        while (fread(input, 1, sizeof input, stdin) == sizeof input) {
            stream(mode[0] == 'r');
        }
    } else if (strcmp(mode, "states") == 0) {
        while (fread(state, 1, CS_MODEL_STATE_SIZE, stdin) == CS_MODEL_STATE_SIZE &&
               fread(input, CS_MODEL_VALUE_BYTES, CS_MODEL_FEATURES, stdin) == CS_MODEL_FEATURES) {
            cs_model_set_state(state);
            cs_model_step(input, row);
            cs_model_get_state(state);
            put(row, sizeof row);
            put(state, CS_MODEL_STATE_SIZE);
        }
#endif
    } else {
        return 2;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
