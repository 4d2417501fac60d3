/* Frames of the serial protocol: magic C5 D1, type u8, sequence u16, length u16, payload, CRC-32 over type..payload. */
#ifndef CS_FRAME_H
#define CS_FRAME_H

#include <stdint.h>

#define CS_FRAME_MAGIC0 0xC5u
#define CS_FRAME_MAGIC1 0xD1u
#define CS_FRAME_HEADER 5u /* type, sequence, length */
#define CS_FRAME_CRC 4u
#define CS_FRAME_REPLY 0x80u
#define CS_FRAME_ERROR 0xFFu

#define CS_ERROR_CRC 1u
#define CS_ERROR_TYPE 2u
#define CS_ERROR_LENGTH 3u
#define CS_ERROR_STREAM 4u /* a stream request that does not follow the one before */
#define CS_ERROR_UNSUPPORTED 6u /* this firmware's runtime cannot answer it */
#define CS_ERROR_RUNTIME 7u     /* the runtime cannot run the model; its status (u8) follows */
#define CS_ERROR_FAULT 16u

typedef struct {
    uint8_t type;
    uint16_t sequence;
    uint16_t length;
    const uint8_t *payload;
} cs_frame;

/* Called for every frame with a good CRC; the payload is valid during the call only. */
typedef void (*cs_frame_fn)(void *context, const cs_frame *frame);
/* Called for every frame that is not accepted. */
typedef void (*cs_frame_error_fn)(void *context, uint8_t code, uint16_t sequence, uint8_t type);

typedef struct {
    uint8_t *buffer; /* CS_FRAME_HEADER + max_payload + CS_FRAME_CRC bytes */
    uint32_t max_payload;
    uint32_t fill;
    uint8_t state;
    cs_frame_fn on_frame;
    cs_frame_error_fn on_error;
    void *context;
} cs_parser;

void cs_parser_init(cs_parser *parser, uint8_t *buffer, uint32_t max_payload, cs_frame_fn on_frame,
                    cs_frame_error_fn on_error, void *context);
/* Takes one received byte. A frame that fails its check is scanned again for a frame inside it, so that a magic
   number in line noise cannot swallow the request that follows. */
void cs_parser_push(cs_parser *parser, uint8_t byte);
/* Gives up a frame that was begun and whose bytes stopped coming. */
void cs_parser_timeout(cs_parser *parser);
/* Nonzero while a frame is begun. */
int cs_parser_busy(const cs_parser *parser);

/* zlib's CRC-32, continued: start with 0. */
uint32_t cs_crc32(uint32_t crc, const uint8_t *data, uint32_t length);

/* Frames are written piecewise, without a buffer: begin, put (length bytes in all), end. */
typedef struct {
    void (*write)(uint8_t byte);
    uint32_t crc;
} cs_writer;

void cs_writer_begin(cs_writer *writer, uint8_t type, uint16_t sequence, uint16_t length);
void cs_writer_put(cs_writer *writer, const uint8_t *data, uint32_t length);
void cs_writer_u8(cs_writer *writer, uint8_t value);
void cs_writer_u16(cs_writer *writer, uint16_t value);
void cs_writer_u32(cs_writer *writer, uint32_t value);
void cs_writer_u64(cs_writer *writer, uint64_t value);
void cs_writer_end(cs_writer *writer);

#endif
