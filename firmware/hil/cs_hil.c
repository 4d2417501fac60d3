#include "cs_hil.h"

#include "codesign_model.h"
#include "cs_board.h"
#include "cs_config.h"
#include "cs_frame.h"
#if CS_RUNTIME_TFLM
#include "cs_tflm_config.h"
#endif

#define PROTOCOL_VERSION 1u
#define TYPE_IDENTIFY 0x01u
#define TYPE_INFER 0x02u
#define TYPE_TRACE 0x03u
#define TYPE_METRICS 0x04u
#define TYPE_QUANTIZE 0x05u
#define TYPE_STREAM 0x06u

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
#define WHOLE_INPUT (FLOAT_BYTES <= LARGEST_FRAME ? FLOAT_BYTES : INPUT_BYTES)

#ifndef CS_MODEL_STREAMING
#define CS_MODEL_STREAMING 0
#endif
#if CS_MODEL_STREAMING
#define STREAM_HEADER 4u /* the first step's number */
#define STEP_IN_BYTES (VALUE_BYTES * CS_MODEL_FEATURES)
#define STEP_OUT_BYTES (VALUE_BYTES * CS_MODEL_STEP_OUTPUT_SIZE)
#define ONE_STEP (STREAM_HEADER + STEP_IN_BYTES)
#define MAX_PAYLOAD (WHOLE_INPUT >= ONE_STEP ? WHOLE_INPUT : ONE_STEP)
#else
#define MAX_PAYLOAD WHOLE_INPUT
#endif

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

#if CS_MODEL_STREAMING
#define NO_STREAM 0xFFFFFFFFu
static uint32_t stream_next = NO_STREAM;   /* the step that the stream goes on with; NO_STREAM: something else has run */
static uint32_t stream_before = NO_STREAM; /* the step that the last request began with, and the state then: */
static uint8_t state_before[CS_MODEL_STATE_SIZE + 1u]; /* it may be sent again */
static cs_model_value_t step_q[CS_MODEL_STEP_OUTPUT_SIZE];
#endif

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

#if CS_RUNTIME_TFLM
uint32_t cs_model_status(void);

/* Whether the interpreter runs the model; where it does not, the answer is its status. */
static int runs(const cs_frame *request)
{
    const uint32_t status = cs_model_status();
    cs_writer writer = {cs_board_write, 0};
    if (status == 0) {
        return 1;
    }
    cs_writer_begin(&writer, (uint8_t)CS_FRAME_ERROR, request->sequence, 3);
    cs_writer_u8(&writer, (uint8_t)CS_ERROR_RUNTIME);
    cs_writer_u8(&writer, request->type);
    cs_writer_u8(&writer, (uint8_t)status);
    cs_writer_end(&writer);
    return 0;
}
#else
#define runs(request) 1
#endif

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

static void end_stream(void)
{
#if CS_MODEL_STREAMING
    stream_next = NO_STREAM;
    stream_before = NO_STREAM;
#endif
}

static void infer(const cs_frame *request)
{
    cs_writer writer;
    end_stream();
    const uint64_t start = cs_board_counter();
    cs_model_invoke((const cs_model_value_t *)(const void *)request->payload, output_q);
    const uint64_t count = cs_board_counter_elapsed(start);
    if (!runs(request)) {
        return;
    }
    invocations++;
    begin_reply(&writer, request, OUTPUT_BYTES + COUNTER_BYTES);
    cs_writer_put(&writer, (const uint8_t *)output_q, OUTPUT_BYTES);
    cs_writer_u64(&writer, count);
    cs_writer_end(&writer);
}

#if !CS_RUNTIME_TFLM || CS_TFLM_TRACE
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
    end_stream();
    cs_model_invoke_traced((const cs_model_value_t *)(const void *)request->payload, output_q, on_trace, &copy);
    if (!runs(request)) {
        return;
    }
    invocations++;
    send_trace(request, TRACE_END, 0, output_q, CS_MODEL_OUTPUT_SIZE);
}
#else
static void trace(const cs_frame *request)
{
    send_error(CS_ERROR_UNSUPPORTED, request->sequence, request->type);
}
#endif

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

#if CS_MODEL_STREAMING
/* Steps of one endless sequence. The number of the first says what the state has to be, so that a request whose reply
   was lost may be sent again without being run twice; 0 begins anew. */
static void stream(const cs_frame *request)
{
    const uint8_t *p = request->payload;
    const uint32_t first = (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
    const uint32_t steps = (request->length - STREAM_HEADER) / STEP_IN_BYTES;
    const cs_model_value_t *input = (const cs_model_value_t *)(const void *)(p + STREAM_HEADER);
    cs_writer writer;
    uint64_t count = 0;
    if (steps > (LARGEST_FRAME - COUNTER_BYTES) / STEP_OUT_BYTES) {
        bad_frames++;
        send_error(CS_ERROR_LENGTH, request->sequence, request->type);
        return;
    }
    if (first == 0u) {
        cs_model_reset();
    } else if (first == stream_next && first != NO_STREAM) {
        cs_model_get_state(state_before);
    } else if (first == stream_before && first != NO_STREAM) {
        cs_model_set_state(state_before);
    } else {
        send_error(CS_ERROR_STREAM, request->sequence, request->type);
        return;
    }
    begin_reply(&writer, request, steps * STEP_OUT_BYTES + COUNTER_BYTES);
    for (uint32_t i = 0; i < steps; i++) {
        const uint64_t start = cs_board_counter();
        cs_model_step(input + i * CS_MODEL_FEATURES, step_q);
        count += cs_board_counter_elapsed(start);
        cs_writer_put(&writer, (const uint8_t *)step_q, STEP_OUT_BYTES);
    }
    cs_writer_u64(&writer, count);
    cs_writer_end(&writer);
    stream_before = first;
    stream_next = first + steps;
}
#endif

static const struct {
    uint8_t type;
    uint32_t length;
    uint32_t unit; /* 0, or the request may be longer by a positive multiple of it */
    void (*run)(const cs_frame *request);
} commands[] = {
    {TYPE_IDENTIFY, 0, 0, identify},
    {TYPE_INFER, INPUT_BYTES, 0, infer},
    {TYPE_TRACE, INPUT_BYTES, 0, trace},
    {TYPE_METRICS, 0, 0, metrics},
    {TYPE_QUANTIZE, FLOAT_BYTES, 0, quantize},
#if CS_MODEL_STREAMING
    {TYPE_STREAM, STREAM_HEADER, STEP_IN_BYTES, stream},
#endif
};

static int fits(uint32_t length, uint32_t base, uint32_t unit)
{
    return unit == 0u ? length == base : length > base && (length - base) % unit == 0u;
}

static void on_frame(void *context, const cs_frame *request)
{
    (void)context;
    for (uint32_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (commands[i].type == request->type) {
            if (!fits(request->length, commands[i].length, commands[i].unit)) {
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
    end_stream();
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
