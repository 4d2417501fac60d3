"""The text of one layer with int16 activations in codesign_model.c: descriptors for cs_int16.h, and its function."""

from __future__ import annotations

from codesign.codegen.int16 import activation16
from codesign.codegen.plan import Step
from codesign.quantization.integer import IntActivation, IntDense, IntLstm, Multiplier, Profile


def step_definitions16(prefix: str, step: Step, profile: Profile) -> list[str]:
    """What follows a layer's constant arrays."""
    op = step.op
    if isinstance(op, IntLstm):
        return [_lstm(prefix, step, op)]
    if isinstance(op, IntDense):
        return [_dense(prefix, step, op)]
    return [_activation(prefix, step, op, profile)]


def _multiplier(scale: Multiplier) -> str:
    return f"{{{scale.m}, {max(scale.e, 0)}, {max(-scale.e, 0)}}}"


def _lstm(prefix: str, step: Step, op: IntLstm) -> str:
    shift = 12 + op.cell_shift
    return f"""static const cs_lstm16 {prefix} = {{
    .weights = {prefix}_weights,
    .m = {{{", ".join(str(scale.m) for scale in step.scales64)}}},
}};
static const cs_lstm16_constants {prefix}_constants = {{
    .input = {{{op.features}, {int(step.wide[0])}, {int(step.deep[0])}}},
    .recurrent = {{{op.units}, {int(step.wide[1])}, {int(step.deep[1])}}},
    .shift = {{{", ".join(str(scale.shift) for scale in step.scales64)}}},
    .cell = {{
        .features = {op.features},
        .units = {op.units},
        .forget_scale = {_multiplier(op.forget_multiplier)},
        .update_scale = {_multiplier(op.input_gate_multiplier)},
        .hidden_scale = {_multiplier(op.hidden_multiplier)},
        .tanh_factor = {3 << shift if shift > 0 else 3},
        .tanh_shift = {max(-shift, 0)},
        .cell_clip = {min(op.cell_clip_q, 32767)},
    }},
}};
static int16_t {prefix}_hidden[{op.units}];
static int16_t {prefix}_cell[{op.units}];

CS_NOINLINE static void {prefix}_step(const int16_t *x, const int16_t *hidden, int16_t *state, int16_t *next,
                                  uint64_t *working)
{{
    cs_lstm16_step(&{prefix}, &{prefix}_constants, x, hidden, state, next, working);
}}"""


def _dense(prefix: str, step: Step, op: IntDense) -> str:
    outputs, inputs = op.W.shape
    scales = ", ".join(f"{{{scale.m}, {scale.shift}}}" for scale in step.scales64)
    return f"""static const cs_scale64 {prefix}_scale[{len(step.scales64)}] = {{{scales}}};
static const cs_dense16 {prefix}_constants = {{
    .input = {{{inputs}, {int(step.wide[0])}, {int(step.deep[0])}}},
    .outputs = {outputs},
    .per_channel = {int(len(step.scales64) > 1)},
    .act_min = {op.act_min},
    .act_max = {op.act_max},
}};

{_head(prefix)}
{{
    cs_dense16_run(&{prefix}_constants, {prefix}_weights, {prefix}_scale, x, y, rows, wide);
}}"""


def _head(prefix: str) -> str:
    return f"CS_NOINLINE static void {prefix}_run(const int16_t *x, int16_t *y, uint32_t rows)"


def _activation(prefix: str, step: Step, op: IntActivation, profile: Profile) -> str:
    constants, columns = activation16(op, profile), op.input.shape[-1]
    if constants.argument is not None:
        m, shift = constants.argument
        kind, text = "cs_argument16", f"{{{m}, {shift}}}"
    else:
        assert constants.multiplier is not None
        kind, text = "cs_multiplier", _multiplier(constants.multiplier)
    if op.kind == "softmax":
        call = f"cs_softmax16_run(scale, {prefix}_exp_table, {prefix}_reciprocal_table, x, y, {columns}, rows);"
    else:
        call = f"cs_{op.kind}16_run(scale, x, y, {columns}u * rows);"
    return f"""{_head(prefix)}
{{
    const {kind} scale = {text};
    {call}
}}"""
