/* libFuzzer's target: the device's protocol code on the host. Each input is bytes to receive; the byte TIME_OUT means
   that the line fell silent instead, and GOOD_FRAME takes the bytes that follow as type, length and payload of a frame
   whose CRC is right, which no mutation would hit. Whatever came, the device writes whole frames only and answers the next good
   request. Bounds and undefined behaviour are the sanitizers' part. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs_board.h"
#include "cs_frame.h"
#include "cs_hil.h"

#define TIME_OUT 0xA7u
#define GOOD_FRAME 0xA6u
#define SENT_MAX (1u << 20)

static uint8_t sent[SENT_MAX];
static size_t sent_bytes;
static unsigned long long received;

void cs_board_write(uint8_t byte)
{
    if (sent_bytes < SENT_MAX) {
        sent[sent_bytes++] = byte;
    }
}

uint64_t cs_board_counter(void)
{
    return 0;
}

uint64_t cs_board_counter_elapsed(uint64_t start)
{
    return start + 1234;
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

static void receive(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        cs_hil_receive(data[i]);
    }
    received += size;
}

static void receive_frame(uint8_t type, uint16_t sequence, const uint8_t *payload, uint16_t length)
{
    uint8_t head[7] = {0xC5, 0xD1, type, (uint8_t)sequence, (uint8_t)(sequence >> 8), (uint8_t)length,
                       (uint8_t)(length >> 8)};
    const uint32_t crc = cs_crc32(cs_crc32(0, head + 2, 5), payload, length);
    const uint8_t tail[4] = {(uint8_t)crc, (uint8_t)(crc >> 8), (uint8_t)(crc >> 16), (uint8_t)(crc >> 24)};
    receive(head, sizeof head);
    receive(payload, length);
    receive(tail, sizeof tail);
}

static void print_received(void)
{
    fprintf(stderr, "bytes received by the device: %llu\n", received);
}

/* The last frame's type and sequence; every byte sent has to belong to a good frame. */
static void check_frames(unsigned *type, unsigned *sequence)
{
    size_t at = 0;
    if (sent_bytes == SENT_MAX) {
        abort(); /* the inputs are too short for that many answers */
    }
    while (at < sent_bytes) {
        if (sent_bytes - at < 11 || sent[at] != 0xC5 || sent[at + 1] != 0xD1) {
            abort();
        }
        const size_t length = sent[at + 5] | (size_t)sent[at + 6] << 8;
        if (sent_bytes - at < 11 + length) {
            abort();
        }
        const uint8_t *tail = sent + at + 7 + length;
        const uint32_t crc = tail[0] | (uint32_t)tail[1] << 8 | (uint32_t)tail[2] << 16 | (uint32_t)tail[3] << 24;
        if (crc != cs_crc32(0, sent + at + 2, (uint32_t)(5 + length))) {
            abort();
        }
        *type = sent[at + 2];
        *sequence = sent[at + 3] | (unsigned)sent[at + 4] << 8;
        at += 11 + length;
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    atexit(print_received);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned type = 0;
    unsigned sequence = 0;
    cs_hil_init();
    sent_bytes = 0;
    for (size_t i = 0; i < size; i++) {
        if (data[i] == TIME_OUT) {
            cs_hil_timeout();
        } else if (data[i] == GOOD_FRAME && size - i > 3) {
            const size_t left = size - i - 3;
            const size_t length = data[i + 2] < left ? data[i + 2] : left;
            receive_frame(data[i + 1], 7, data + i + 3, (uint16_t)length);
            i += 2 + length;
        } else {
            receive(data + i, 1);
        }
    }
    for (size_t i = 0; cs_hil_busy(); i++) {
        if (i > size + 16) {
            abort(); /* every time-out gives up at least one byte */
        }
        cs_hil_timeout();
    }
    receive_frame(0x01, 0xBEEF, data, 0); /* identify */
    check_frames(&type, &sequence);
    if (type != 0x81 || sequence != 0xBEEF) {
        abort();
    }
    return 0;
}
