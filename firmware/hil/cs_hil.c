#include "cs_hil.h"

#include "codesign_model.h"
#include "cs_board.h"
#include "cs_config.h"
#include "cs_frame.h"

#define PROTOCOL_VERSION 1u
#define TYPE_IDENTIFY 0x01u
#define TYPE_INFER 0x02u
#define TYPE_TRACE 0x03u
#define TYPE_METRICS 0x04u
#define TYPE_QUANTIZE 0x05u

#define TRACE_END 0xFFFFu
#define TRACE_HEADER 6u
#define COUNTER_BYTES 8u
#define IDENTIFY_FIXED 72u /* bytes before the board's name */

/* Values are sent as they lie in memory: little endian. */
#define VALUE_BYTES ((uint32_t)sizeof(cs_model_value_t))
#define INPUT_BYTES (VALUE_BYTES * CS_MODEL_INPUT_SIZE)
#define OUTPUT_BYTES (VALUE_BYTES * CS_MODEL_OUTPUT_SIZE)
#define FLOAT_BYTES (4u * CS_MODEL_INPUT_SIZE)
#define FLAG_INT16 2u
#define LARGEST_FRAME 0xFFFFu
/* A model too wide for whole float requests still answers everything else. */
#define MAX_PAYLOAD (FLOAT_BYTES <= LARGEST_FRAME ? FLOAT_BYTES : INPUT_BYTES)

_Static_assert(INPUT_BYTES <= 0xFFFF, "the input does not fit a frame of the serial protocol");
_Static_assert(OUTPUT_BYTES <= 0xFFFF - 8, "the output does not fit a frame of the serial protocol");

/* float32 requests are read in place: the storage is declared as floats, and the payload starts 8 bytes into it. */
#define PAYLOAD_AT 8u
static float storage[(PAYLOAD_AT + MAX_PAYLOAD + CS_FRAME_CRC + 3u) / 4u];
static cs_model_value_t input_q[CS_MODEL_INPUT_SIZE];
static cs_model_value_t output_q[CS_MODEL_OUTPUT_SIZE];
static cs_parser parser;
static uint32_t invocations;
static uint32_t bad_frames;

static const uint8_t build_id[16] = CS_BUILD_ID;
static const char board_name[] = CS_BOARD_NAME;

static void send_error(uint8_t code, uint16_t sequence, uint8_t request)
{
    cs_writer writer = {cs_board_write, 0};
    cs_writer_begin(&writer, (uint8_t)CS_FRAME_ERROR, sequence, 2);
    cs_writer_u8(&writer, code);
    cs_writer_u8(&writer, request);
    cs_writer_end(&writer);
}

static void begin_reply(cs_writer *writer, const cs_frame *request, uint32_t length)
{
    writer->write = cs_board_write;
    cs_writer_begin(writer, (uint8_t)(request->type | CS_FRAME_REPLY), request->sequence, (uint16_t)length);
}

static void identify(const cs_frame *request)
{
    cs_writer writer;
    const uint32_t name_bytes = (uint32_t)sizeof board_name - 1u;
    begin_reply(&writer, request, IDENTIFY_FIXED + name_bytes);
    cs_writer_u16(&writer, PROTOCOL_VERSION);
    cs_writer_u16(&writer, (uint16_t)(cs_board_flags() | (VALUE_BYTES == 2u ? FLAG_INT16 : 0u)));
    cs_writer_put(&writer, cs_model_hash(), 32);
    cs_writer_put(&writer, build_id, sizeof build_id);
    cs_writer_u32(&writer, CS_MODEL_INPUT_SIZE);
    cs_writer_u32(&writer, CS_MODEL_OUTPUT_SIZE);
    cs_writer_u16(&writer, CS_MODEL_STEPS);
    cs_writer_u16(&writer, CS_MODEL_FEATURES);
    cs_writer_u16(&writer, CS_MODEL_LSTM_LAYERS);
    cs_writer_u8(&writer, CS_COUNTER_KIND);
    cs_writer_u8(&writer, CS_COUNTER_GRANULARITY);
    cs_writer_u32(&writer, cs_board_clock_hz());
    cs_writer_put(&writer, (const uint8_t *)board_name, name_bytes);
    cs_writer_end(&writer);
}

static void infer(const cs_frame *request)
{
    cs_writer writer;
    const uint64_t start = cs_board_counter();
    cs_model_invoke((const cs_model_value_t *)(const void *)request->payload, output_q);
    const uint64_t count = cs_board_counter_elapsed(start);
    invocations++;
    begin_reply(&writer, request, OUTPUT_BYTES + COUNTER_BYTES);
    cs_writer_put(&writer, (const uint8_t *)output_q, OUTPUT_BYTES);
    cs_writer_u64(&writer, count);
    cs_writer_end(&writer);
}

static void send_trace(const cs_frame *request, uint16_t layer, uint16_t step,
                       const cs_model_value_t *values, uint16_t units)
{
    cs_writer writer;
    begin_reply(&writer, request, TRACE_HEADER + VALUE_BYTES * units);
    cs_writer_u16(&writer, layer);
    cs_writer_u16(&writer, step);
    cs_writer_u16(&writer, units);
    cs_writer_put(&writer, (const uint8_t *)values, VALUE_BYTES * units);
    cs_writer_end(&writer);
}

static void on_trace(void *context, uint16_t layer, uint16_t step, const cs_model_value_t *hidden, uint16_t units)
{
    send_trace((const cs_frame *)context, layer, step, hidden, units);
}

static void trace(const cs_frame *request)
{
    cs_frame copy = *request;
    cs_model_invoke_traced((const cs_model_value_t *)(const void *)request->payload, output_q, on_trace, &copy);
    invocations++;
    send_trace(request, TRACE_END, 0, output_q, CS_MODEL_OUTPUT_SIZE);
}

static void metrics(const cs_frame *request)
{
    cs_writer writer;
    begin_reply(&writer, request, 16);
    cs_writer_u32(&writer, cs_board_stack_used());
    cs_writer_u32(&writer, cs_board_stack_size());
    cs_writer_u32(&writer, invocations);
    cs_writer_u32(&writer, bad_frames);
    cs_writer_end(&writer);
}

static void quantize(const cs_frame *request)
{
    cs_writer writer;
    cs_model_quantize_input((const float *)(const void *)request->payload, input_q);
    begin_reply(&writer, request, INPUT_BYTES);
    cs_writer_put(&writer, (const uint8_t *)input_q, INPUT_BYTES);
    cs_writer_end(&writer);
}

static const struct {
    uint8_t type;
    uint32_t length;
    void (*run)(const cs_frame *request);
} commands[] = {
    {TYPE_IDENTIFY, 0, identify},
    {TYPE_INFER, INPUT_BYTES, infer},
    {TYPE_TRACE, INPUT_BYTES, trace},
    {TYPE_METRICS, 0, metrics},
    {TYPE_QUANTIZE, FLOAT_BYTES, quantize},
};

static void on_frame(void *context, const cs_frame *request)
{
    (void)context;
    for (uint32_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (commands[i].type == request->type) {
            if (commands[i].length != request->length) {
                bad_frames++;
                send_error(CS_ERROR_LENGTH, request->sequence, request->type);
                return;
            }
            commands[i].run(request);
            return;
        }
    }
    bad_frames++;
    send_error(CS_ERROR_TYPE, request->sequence, request->type);
}

static void on_error(void *context, uint8_t code, uint16_t sequence, uint8_t type)
{
    (void)context;
    bad_frames++;
    send_error(code, sequence, type);
}

void cs_hil_init(void)
{
    uint8_t *buffer = (uint8_t *)storage + PAYLOAD_AT - CS_FRAME_HEADER;
    invocations = 0;
    bad_frames = 0;
    cs_model_init();
    cs_parser_init(&parser, buffer, MAX_PAYLOAD, on_frame, on_error, 0);
}

void cs_hil_receive(uint8_t byte)
{
    cs_parser_push(&parser, byte);
}

int cs_hil_busy(void)
{
    return cs_parser_busy(&parser);
}

void cs_hil_timeout(void)
{
    cs_parser_timeout(&parser);
}
