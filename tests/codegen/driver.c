/* Runs a generated model on a stream: driver MODE < input > output; MODE is infer, trace, quantize, dequantize, hash,
 * or twice (each input after a different one and a reset). */
#include <stdio.h>
#include <string.h>

#include "codesign_model.h"

static int8_t input[CS_MODEL_INPUT_SIZE];
static int8_t output[CS_MODEL_OUTPUT_SIZE];
static float reals[CS_MODEL_INPUT_SIZE > CS_MODEL_OUTPUT_SIZE ? CS_MODEL_INPUT_SIZE : CS_MODEL_OUTPUT_SIZE];

static void put(const void *data, size_t n)
{
    if (fwrite(data, 1, n, stdout) != n) {
        perror("fwrite");
    }
}

static void on_step(void *context, uint16_t layer, uint16_t step, const int8_t *hidden, uint16_t units)
{
    const uint16_t head[3] = {layer, step, units};
    ++*(int *)context;
    put(head, sizeof head);
    put(hidden, units);
}

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
    } else {
        return 2;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
