"""A stand-in for a TFLM source tree, written for these tests: the interfaces that the glue uses, and no neural network.

Its interpreter needs 2,000 bytes of arena, and gives outputs that tell what was called: each is the input's sum plus
its index, and a hundred more where state was not reset.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
ARENA = 2000
TREE = "CODESIGN_TFLM_TREE"

_SCALES = {
    "float32": "const double input_product_scale =\n"
    "      static_cast<double>(input->params.scale * filter->params.scale);",
    "double": "const double input_product_scale = static_cast<double>(input->params.scale) *\n"
    "                                     static_cast<double>(filter->params.scale);",
}
_TYPES = """#pragma once
#include <stddef.h>
#include <stdint.h>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
enum TfLiteType { kTfLiteNoType, kTfLiteInt8 = 9, kTfLiteInt16 = 7 };
struct TfLiteIntArray { int size; int data[4]; };
struct TfLiteEvalTensor { union { void *data; int8_t *int8; } data; TfLiteIntArray *dims; };
struct TfLiteTensor { TfLiteType type; size_t bytes; union { void *data; int8_t *int8; } data; };
struct TfLiteContext {};
struct TfLiteNode {};
struct TFLMRegistration { TfLiteStatus (*invoke)(TfLiteContext *, TfLiteNode *); };
"""
_KERNEL_UTIL = """#pragma once
#include "tensorflow/lite/c/common.h"
namespace tflite { namespace micro {
TfLiteEvalTensor *GetEvalOutput(const TfLiteContext *, const TfLiteNode *, int);
template <typename T> T *GetTensorData(TfLiteEvalTensor *tensor) { return static_cast<T *>(tensor->data.data); }
template <typename T> const T *GetTensorData(const TfLiteEvalTensor *tensor)
{
    return static_cast<const T *>(tensor->data.data);
}
} }
"""
_LSTM = """#include "tensorflow/lite/micro/kernels/lstm_shared.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
namespace {
int8_t hidden[8];
int32_t dims[] = {3, 1, 2, 4};
TfLiteStatus Eval(TfLiteContext *, TfLiteNode *)
{
    for (int i = 0; i < 8; i++) hidden[i] = (int8_t)i;
    return kTfLiteOk;
}
}
namespace tflite {
TFLMRegistration Register_UNIDIRECTIONAL_SEQUENCE_LSTM() { return {Eval}; }
namespace micro {
TfLiteEvalTensor *GetEvalOutput(const TfLiteContext *, const TfLiteNode *, int)
{
    static TfLiteEvalTensor tensor;
    tensor.data.data = hidden;
    tensor.dims = reinterpret_cast<TfLiteIntArray *>(dims);
    return &tensor;
}
} }
"""
_RESOLVER = """#pragma once
#include "tensorflow/lite/micro/kernels/lstm_shared.h"
namespace tflite {
struct MicroOpResolver { TFLMRegistration lstm; unsigned added; };
template <unsigned N> class MicroMutableOpResolver : public MicroOpResolver {
 public:
  MicroMutableOpResolver() { added = 0; }
  TfLiteStatus Add() { return ++added <= N ? kTfLiteOk : kTfLiteError; }
  TfLiteStatus AddUnidirectionalSequenceLSTM(LSTM_PARAMETER) { lstm = LSTM_VALUE; return Add(); }
  TfLiteStatus AddFullyConnected() { return Add(); }
  TfLiteStatus AddSoftmax() { return Add(); }
  TfLiteStatus AddLogistic() { return Add(); }
  TfLiteStatus AddTanh() { return Add(); }
  TfLiteStatus AddRelu() { return Add(); }
  TfLiteStatus AddStridedSlice() { return Add(); }
  TfLiteStatus AddReshape() { return Add(); }
};
}
"""
_INTERPRETER = """#pragma once
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
namespace tflite {
class MicroInterpreter {
 public:
  MicroInterpreter(const Model *model, const MicroOpResolver &resolver, uint8_t *arena, size_t size);
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteStatus Reset() { dirty_ = false; return kTfLiteOk; }
  TfLiteTensor *input(size_t) { return &input_; }
  TfLiteTensor *output(size_t) { return &output_; }
 private:
  const MicroOpResolver &resolver_;
  uint8_t *arena_;
  size_t size_;
  bool dirty_;
  TfLiteTensor input_, output_;
};
}
"""
_INTERPRETER_SOURCE = """#include "tensorflow/lite/micro/micro_interpreter.h"
namespace tflite {
MicroInterpreter::MicroInterpreter(const Model *, const MicroOpResolver &resolver, uint8_t *arena, size_t size)
    : resolver_(resolver), arena_(arena), size_(size), dirty_(true) {}
TfLiteStatus MicroInterpreter::AllocateTensors()
{
    if (size_ < 2000) return kTfLiteError;
    input_.type = kTfLiteInt8; input_.bytes = INPUTS; input_.data.data = arena_;
    output_.type = kTfLiteInt8; output_.bytes = OUTPUTS; output_.data.data = arena_ + 1024;
    return kTfLiteOk;
}
TfLiteStatus MicroInterpreter::Invoke()
{
    int sum = dirty_ ? 100 : 0;
    dirty_ = true;
    TfLiteContext context;
    TfLiteNode node;
    if (resolver_.lstm.invoke(&context, &node) != kTfLiteOk) return kTfLiteError;
    for (size_t i = 0; i < input_.bytes; i++) sum += input_.data.int8[i];
    for (size_t i = 0; i < output_.bytes; i++) output_.data.int8[i] = (int8_t)(sum + (int)i);
    return kTfLiteOk;
}
}
"""
_SCHEMA = """#pragma once
#include "flatbuffers/flatbuffers.h"
#define TFLITE_SCHEMA_VERSION 3
namespace tflite {
struct Model { uint32_t version() const { return 3; } };
inline const Model *GetModel(const void *content) { return static_cast<const Model *>(content); }
}
"""


def stub_tree(
    root: Path, scales: str = "float32", cmsis: bool = False, traces: bool = True, suffix: str = ".cc",
    downloads: bool = False, inputs: int = 32, outputs: int = 2,
) -> Path:  # fmt: skip
    """Write the tree to `root` and give it."""
    micro, kernels = "tensorflow/lite/micro", "tensorflow/lite/micro/kernels"
    third = f"{micro}/tools/make/downloads" if downloads else "third_party"
    parameter = "const TFLMRegistration &registration = Register_UNIDIRECTIONAL_SEQUENCE_LSTM()" if traces else ""
    value = "registration" if traces else "Register_UNIDIRECTIONAL_SEQUENCE_LSTM()"
    lstm_h = '#pragma once\n#include "tensorflow/lite/c/common.h"\nnamespace tflite {\n'
    files = {
        "tensorflow/lite/c/common.h": _TYPES,
        f"tensorflow/lite/kernels/kernel_util{suffix}": f"// of the real file: {_SCALES[scales]}\n",
        "tensorflow/lite/schema/schema_generated.h": _SCHEMA,
        f"{micro}/micro_interpreter.h": _INTERPRETER,
        f"{micro}/micro_interpreter{suffix}": (
            f"#define INPUTS {inputs}\n#define OUTPUTS {outputs}\n" + _INTERPRETER_SOURCE
        ),
        f"{micro}/micro_mutable_op_resolver.h": _RESOLVER.replace("LSTM_PARAMETER", parameter).replace(
            "LSTM_VALUE", value
        ),
        f"{micro}/unused{suffix}": "#error not needed\n",
        f"{kernels}/lstm_shared.h": lstm_h + "TFLMRegistration Register_UNIDIRECTIONAL_SEQUENCE_LSTM();\n}\n",
        f"{kernels}/kernel_util.h": _KERNEL_UTIL,
        f"{kernels}/add{suffix}": "#error not needed\n",
        f"{third}/flatbuffers/include/flatbuffers/flatbuffers.h": "#pragma once\n#include <stdint.h>\n",
        f"{third}/gemmlowp/fixedpoint/fixedpoint.h": "#pragma once\n",
        f"{third}/ruy/ruy/profiler/instrumentation.h": "#pragma once\n",
    }
    names = ["fully_connected", "softmax", "logistic", "tanh", "activations", "strided_slice", "reshape"]
    files |= {f"{kernels}/{name}{suffix}": "\n" for name in names}
    lstm = f"{kernels}/unidirectional_sequence_lstm{suffix}"
    if cmsis:
        files[lstm.replace("kernels/", "kernels/cmsis_nn/")] = (
            '#include "Include/arm_nnfunctions.h"\nint lstm_stand_in() { return arm_lstm_stand_in(1); }\n' + _LSTM
        )
        files[f"{third}/cmsis/CMSIS/Core/Include/cmsis_compiler.h"] = "#pragma once\n"
        files[f"{third}/cmsis_nn/Include/arm_nnfunctions.h"] = (
            '#pragma once\n#include "cmsis_compiler.h"\n#ifdef __cplusplus\nextern "C"\n#endif\n'
            "int arm_lstm_stand_in(int value);\n"
        )
        files[f"{third}/cmsis_nn/Source/LSTMFunctions/arm_lstm_other_name.c"] = (
            '#include "arm_nnfunctions.h"\nint arm_helper(int value);\n'
            "int arm_lstm_stand_in(int value)\n{\n    return arm_helper(value);\n}\n"
        )
        files[f"{third}/cmsis_nn/Source/Support/arm_helper.c"] = "int arm_helper(int value)\n{\n    return value;\n}\n"
        files[f"{third}/cmsis_nn/Source/Support/arm_unused.c"] = "#error not needed\n"
    else:
        files[lstm] = _LSTM
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def real_tree() -> str:
    """The tree of TFLM's own sources that the environment names; the test skips without one."""
    tree = os.environ.get(TREE)
    if not tree:
        pytest.skip(f"no TFLM source tree: name one with the environment variable {TREE}")
    return tree
