/* The device's protocol code on the host. Standard input: chunks of u32 length and bytes to receive; length 0 is a
   time-out. Standard output: what the device sends. */
#include <stdio.h>
#include <stdlib.h>

#include "cs_board.h"
#include "cs_hil.h"

void cs_board_write(uint8_t byte)
{
    putchar(byte);
}

uint64_t cs_board_counter(void)
{
    return 0;
}

uint64_t cs_board_counter_elapsed(uint64_t start)
{
    (void)start;
    return 1234;
}

uint32_t cs_board_clock_hz(void)
{
    return 1000000;
}

uint16_t cs_board_flags(void)
{
    return 0;
}

uint32_t cs_board_stack_used(void)
{
    return 100;
}

uint32_t cs_board_stack_size(void)
{
    return 8192;
}

int main(void)
{
    uint32_t length;
    cs_hil_init();
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        if (length == 0) {
            cs_hil_timeout();
        }
        for (uint32_t i = 0; i < length; i++) {
            const int byte = getchar();
            if (byte == EOF) {
                return 1;
            }
            cs_hil_receive((uint8_t)byte);
        }
    }
    return 0;
}
