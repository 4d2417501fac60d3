// The model's API (codesign_model.h) on TensorFlow Lite Micro's interpreter, in place of the generated C.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <new>

#include "codesign_model.h"
#include "cs_tflm_config.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

extern "C" {

// Why the model cannot run: 0 it can, 1 the file's schema, 2 an operator cannot be registered, 3 the tensors cannot be
// allocated (arena too small, or an operator refuses its parameters), 4 other inputs or outputs than expected,
// 5 an inference failed.
uint32_t cs_model_status(void);
// Starts the model with the first `bytes` of the arena, and gives the status: for whoever sizes the arena.
uint32_t cs_tflm_start(uint32_t bytes);

// Kept in the image for the host to read: the runtime and its semantics profile.
extern const char cs_runtime[];
__attribute__((used, section(".cs_identity"))) const char cs_runtime[] = CS_TFLM_RUNTIME;

}  // extern "C"

namespace {

enum : uint32_t { kOk, kSchema, kRegister, kAllocate, kShape, kInvoke };

using Resolver = tflite::MicroMutableOpResolver<CS_TFLM_OPERATORS>;

alignas(16) uint8_t arena[CS_TFLM_ARENA_BYTES];
// Constructed in place by cs_model_init and never destroyed: no global constructors, no heap.
alignas(Resolver) uint8_t resolver_storage[sizeof(Resolver)];
alignas(tflite::MicroInterpreter) uint8_t interpreter_storage[sizeof(tflite::MicroInterpreter)];
tflite::MicroInterpreter *interpreter;

#if CS_TFLM_TRACE
using Registration = decltype(tflite::Register_UNIDIRECTIONAL_SEQUENCE_LSTM());

cs_trace_fn trace_to;
void *trace_context;
uint16_t trace_layer;
TfLiteStatus (*lstm_invoke)(TfLiteContext *, TfLiteNode *);

// TFLM's own kernel, then a look at its output [1, steps, units], which no later operator has overwritten yet.
TfLiteStatus invoke_traced_lstm(TfLiteContext *context, TfLiteNode *node)
{
    const TfLiteStatus result = lstm_invoke(context, node);
    if (trace_to != nullptr && result == kTfLiteOk) {
        const TfLiteEvalTensor *output = tflite::micro::GetEvalOutput(context, node, 0);
        const int rank = output->dims->size;
        const uint16_t units = (uint16_t)output->dims->data[rank - 1];
        const uint16_t steps = (uint16_t)output->dims->data[rank - 2];
        const cs_model_value_t *hidden = tflite::micro::GetTensorData<cs_model_value_t>(output);
        for (uint16_t step = 0; step < steps; step++) {
            trace_to(trace_context, trace_layer, step, hidden + (size_t)step * units, units);
        }
        trace_layer++;
    }
    return result;
}

Registration traced_lstm()
{
    Registration registration = tflite::Register_UNIDIRECTIONAL_SEQUENCE_LSTM();
    lstm_invoke = registration.invoke;
    registration.invoke = invoke_traced_lstm;
    return registration;
}
#endif

bool fits(const TfLiteTensor *tensor, size_t values)
{
    return tensor != nullptr && tensor->type == CS_TFLM_VALUE_TYPE && tensor->bytes == values * sizeof(cs_model_value_t);
}

uint32_t status;

uint32_t start(uint32_t bytes)
{
    const tflite::Model *model = tflite::GetModel(cs_tflm_model);
    if (model->version() != TFLITE_SCHEMA_VERSION) {
        return kSchema;
    }
    Resolver &resolver = *new (resolver_storage) Resolver();
    if (!CS_TFLM_REGISTER(resolver)) {
        return kRegister;
    }
    interpreter = new (interpreter_storage) tflite::MicroInterpreter(model, resolver, arena, bytes);
    if (interpreter->AllocateTensors() != kTfLiteOk) {
        return kAllocate;
    }
    if (!fits(interpreter->input(0), CS_MODEL_INPUT_SIZE) || !fits(interpreter->output(0), CS_MODEL_OUTPUT_SIZE)) {
        return kShape;
    }
    return kOk;
}

}  // namespace

extern "C" {

uint32_t cs_model_status(void)
{
    return status;
}

__attribute__((noipa)) uint32_t cs_tflm_start(uint32_t bytes)
{
    status = start(bytes);
    return status;
}

void cs_model_init(void)
{
    (void)cs_tflm_start(sizeof arena);
}

// TFLM's reference kernels keep the LSTM's state from one invocation to the next until this.
void cs_model_reset(void)
{
    if (status == kOk && interpreter->Reset() != kTfLiteOk) {
        status = kInvoke;
    }
}

void cs_model_invoke(const cs_model_value_t *input, cs_model_value_t *output)
{
    cs_model_reset();
    if (status != kOk) {
        return;
    }
    memcpy(interpreter->input(0)->data.data, input, sizeof(cs_model_value_t) * CS_MODEL_INPUT_SIZE);
    if (interpreter->Invoke() != kTfLiteOk) {
        status = kInvoke;
        return;
    }
    memcpy(output, interpreter->output(0)->data.data, sizeof(cs_model_value_t) * CS_MODEL_OUTPUT_SIZE);
}

void cs_model_invoke_traced(const cs_model_value_t *input, cs_model_value_t *output, cs_trace_fn trace, void *context)
{
#if CS_TFLM_TRACE
    trace_layer = 0;
    trace_context = context;
    trace_to = trace;
    cs_model_invoke(input, output);
    trace_to = nullptr;
#else
    (void)trace;
    (void)context;
    cs_model_invoke(input, output);
#endif
}

// TFLM aborts where a check fails that its release build keeps: an undefined instruction, which the board reports.
void abort(void)
{
    __builtin_trap();
}

}  // extern "C"
