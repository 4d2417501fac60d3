#include "cs_frame.h"

enum { STATE_MAGIC0, STATE_MAGIC1, STATE_BODY };

static const uint32_t crc_nibble[16] = {
    0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
    0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
};

uint32_t cs_crc32(uint32_t crc, const uint8_t *data, uint32_t length)
{
    crc = ~crc;
    for (uint32_t i = 0; i < length; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ crc_nibble[crc & 15u];
        crc = (crc >> 4) ^ crc_nibble[crc & 15u];
    }
    return ~crc;
}

static uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)((uint32_t)p[0] | ((uint32_t)p[1] << 8));
}

static uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}

void cs_parser_init(cs_parser *parser, uint8_t *buffer, uint32_t max_payload, cs_frame_fn on_frame,
                    cs_frame_error_fn on_error, void *context)
{
    parser->buffer = buffer;
    parser->max_payload = max_payload;
    parser->fill = 0;
    parser->state = STATE_MAGIC0;
    parser->on_frame = on_frame;
    parser->on_error = on_error;
    parser->context = context;
}

/* Drops the frame begun and returns how many of its bytes, now at the start of the buffer, have to be read again. */
static uint32_t reject(cs_parser *parser, uint8_t code, uint16_t sequence, uint8_t type)
{
    const uint32_t again = parser->fill;
    parser->fill = 0;
    parser->state = STATE_MAGIC0;
    parser->on_error(parser->context, code, sequence, type);
    return again;
}

static uint32_t step_body(cs_parser *parser)
{
    const uint8_t *buffer = parser->buffer;
    if (parser->fill < CS_FRAME_HEADER) {
        return 0;
    }
    const uint8_t type = buffer[0];
    const uint16_t sequence = read_u16(buffer + 1);
    const uint16_t length = read_u16(buffer + 3);
    if (length > parser->max_payload) {
        return reject(parser, CS_ERROR_LENGTH, sequence, type);
    }
    if (parser->fill < CS_FRAME_HEADER + length + CS_FRAME_CRC) {
        return 0;
    }
    if (cs_crc32(0, buffer, CS_FRAME_HEADER + length) != read_u32(buffer + CS_FRAME_HEADER + length)) {
        return reject(parser, CS_ERROR_CRC, 0, type);
    }
    parser->fill = 0;
    parser->state = STATE_MAGIC0;
    const cs_frame frame = {type, sequence, length, buffer + CS_FRAME_HEADER};
    parser->on_frame(parser->context, &frame);
    return 0;
}

static uint32_t step(cs_parser *parser, uint8_t byte)
{
    switch (parser->state) {
    case STATE_MAGIC0:
        if (byte == CS_FRAME_MAGIC0) {
            parser->state = STATE_MAGIC1;
        }
        return 0;
    case STATE_MAGIC1:
        if (byte == CS_FRAME_MAGIC1) {
            parser->state = STATE_BODY;
            parser->fill = 0;
        } else if (byte != CS_FRAME_MAGIC0) {
            parser->state = STATE_MAGIC0;
        }
        return 0;
    default:
        parser->buffer[parser->fill++] = byte;
        return step_body(parser);
    }
}

/* Reads the first `pending` bytes of the buffer again. A frame found there is stored over bytes already read: its two
   magic bytes are not stored, so the write position stays behind the read position. */
static void rescan(cs_parser *parser, uint32_t pending)
{
    uint8_t *buffer = parser->buffer;
    uint32_t position = 0;
    while (position < pending) {
        const uint32_t again = step(parser, buffer[position++]);
        if (again != 0) {
            uint32_t end = again;
            while (position < pending) {
                buffer[end++] = buffer[position++];
            }
            pending = end;
            position = 0;
        }
    }
}

void cs_parser_push(cs_parser *parser, uint8_t byte)
{
    rescan(parser, step(parser, byte));
}

void cs_parser_timeout(cs_parser *parser)
{
    if (parser->state == STATE_BODY) {
        rescan(parser, reject(parser, CS_ERROR_CRC, 0, parser->fill != 0 ? parser->buffer[0] : 0));
    } else {
        parser->state = STATE_MAGIC0;
    }
}

int cs_parser_busy(const cs_parser *parser)
{
    return parser->state != STATE_MAGIC0;
}

void cs_writer_put(cs_writer *writer, const uint8_t *data, uint32_t length)
{
    writer->crc = cs_crc32(writer->crc, data, length);
    for (uint32_t i = 0; i < length; i++) {
        writer->write(data[i]);
    }
}

void cs_writer_u8(cs_writer *writer, uint8_t value)
{
    cs_writer_put(writer, &value, 1);
}

void cs_writer_u16(cs_writer *writer, uint16_t value)
{
    cs_writer_u8(writer, (uint8_t)(value & 0xFFu));
    cs_writer_u8(writer, (uint8_t)(value >> 8));
}

void cs_writer_u32(cs_writer *writer, uint32_t value)
{
    cs_writer_u16(writer, (uint16_t)(value & 0xFFFFu));
    cs_writer_u16(writer, (uint16_t)(value >> 16));
}

void cs_writer_u64(cs_writer *writer, uint64_t value)
{
    cs_writer_u32(writer, (uint32_t)(value & 0xFFFFFFFFu));
    cs_writer_u32(writer, (uint32_t)(value >> 32));
}

void cs_writer_begin(cs_writer *writer, uint8_t type, uint16_t sequence, uint16_t length)
{
    writer->write((uint8_t)CS_FRAME_MAGIC0);
    writer->write((uint8_t)CS_FRAME_MAGIC1);
    writer->crc = 0;
    cs_writer_u8(writer, type);
    cs_writer_u16(writer, sequence);
    cs_writer_u16(writer, length);
}

void cs_writer_end(cs_writer *writer)
{
    cs_writer_u32(writer, writer->crc);
}
