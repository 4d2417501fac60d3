/* driver sigmoid | driver tanh SHIFT: the LSTM's nonlinearities for every int16, cell scale 2^SHIFT, as int32.
 * driver multiply M E < int32 values: the rescaled values. driver product M E < pairs of int32: the rescaled products. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs_lstm.h"

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    const uint32_t *middle = sigmoid_segments + CS_SEGMENTS / 2;
    int32_t x;
    int32_t y = 0;
    if ((strcmp(mode, "multiply") == 0 || strcmp(mode, "product") == 0) && argc == 4) {
        const int e = atoi(argv[3]);
        cs_multiplier m;
        m.m = (int32_t)atol(argv[2]);
        m.left = (uint8_t)(e > 0 ? e : 0);
        m.right = (uint8_t)(e > 0 ? 0 : -e);
        while (fread(&x, sizeof x, 1, stdin) == 1) {
            if (mode[0] == 'm') {
                y = cs_rescale(2 * x, m);
            } else {
                int32_t b;
                if (fread(&b, sizeof b, 1, stdin) != 1) {
                    return 3;
                }
                y = cs_scale_product((int32_t)((uint32_t)x << 16), b, m) >> cs_product_shift(m);
            }
            fwrite(&y, sizeof y, 1, stdout);
        }
        return 0;
    }
    for (x = -32768; x <= 32767; ++x) {
        if (strcmp(mode, "sigmoid") == 0) {
            y = cs_sigmoid(x, middle, CS_SIGMOID_OFFSET) >> 16;
        } else if (strcmp(mode, "tanh") == 0 && argc == 3) {
            const int s = 12 + atoi(argv[2]);
            const int32_t argument = s > 0 ? cs_tanh_argument(x, (int32_t)(3u << s), 0) : cs_tanh_argument(x, 3, (uint32_t)-s);
            y = cs_tanh(argument, middle);
        } else {
            return 2;
        }
        fwrite(&y, sizeof y, 1, stdout);
    }
    return 0;
}
