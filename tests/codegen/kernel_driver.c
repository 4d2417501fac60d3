/* driver sigmoid | driver tanh SHIFT: the LSTM's nonlinearities for every int16, cell scale 2^SHIFT, as int32.
 * driver multiply M E < int32 values: the rescaled values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs_fixed.h"

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    int32_t x;
    int32_t y = 0;
    if (strcmp(mode, "multiply") == 0 && argc == 4) {
        const int e = atoi(argv[3]);
        cs_multiplier m;
        m.m = (int32_t)atol(argv[2]);
        m.left = (uint8_t)(e > 0 ? e : 0);
        m.right = (uint8_t)(e > 0 ? 0 : -e);
        while (fread(&x, sizeof x, 1, stdin) == 1) {
            y = cs_multiply(x, m);
            fwrite(&y, sizeof y, 1, stdout);
        }
        return 0;
    }
    for (x = -32768; x <= 32767; ++x) {
        if (strcmp(mode, "sigmoid") == 0) {
            y = cs_sigmoid_q15(x);
        } else if (strcmp(mode, "tanh") == 0 && argc == 3) {
            const int s = 12 + atoi(argv[2]);
            y = s > 0 ? cs_tanh_q15(x, (int32_t)(3u << s), 0) : cs_tanh_q15(x, 3, (uint32_t)-s);
        } else {
            return 2;
        }
        fwrite(&y, sizeof y, 1, stdout);
    }
    return 0;
}
