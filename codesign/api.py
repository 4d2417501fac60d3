"""The public Python API: load, quantize, certify, build, cross_check, deploy. The command line only wraps it.

import codesign

network = codesign.load("models/motion.h5")
integer = codesign.quantize("models/motion.h5", "motion.tflite")
data = codesign.calibration("models/motion.h5")
certificate = codesign.certify(network, integer, data, radius="1lsb", samples=20)
firmware = codesign.build(integer, "nucleo_f746", "firmware")
result = codesign.cross_check(firmware, network, integer, data, certificate)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from codesign.certificate import certificate_document, hil_regions, proof_content, seal, write_certificate
from codesign.errors import InputError
from codesign.network import FloatNetwork, decisions, evaluate, load_network
from codesign.quantization import (
    Activations,
    Calibration,
    IntegerNetwork,
    Profile,
    convert,
    default_calibration_path,
    load_calibration,
    read_integer_network,
    require_one_model,
    with_profile,
)
from codesign.verification import Neighbourhood, Options, RegionKind, input_domain, require_inside, select
from codesign.verification import certify as certify_regions
from codesign.verification.all_inputs import all_inputs

if TYPE_CHECKING:
    from codesign.codegen import Weights
    from codesign.hil import Stream
    from codesign.tflm import TflmRuntime
    from codesign.toolchain import Build

PathLike = str | Path
DEFAULT_SAMPLES = 50
DEPLOY_SAMPLES = 200
DRAWN = 100  # inputs from the whole domain that a device answers
STREAM_STEPS = 10_000
_PROFILES: tuple[Profile, ...] = get_args(Profile)


def load(path: PathLike) -> FloatNetwork:
    """Read a float model: .h5 (Keras 2 or 3), .keras, or a float .tflite with fused LSTMs. InputError if refused."""
    return load_network(path)


def quantize(
    model: PathLike, output: PathLike, calibration: PathLike | None = None, activations: Activations = "int8"
) -> IntegerNetwork:
    """Convert a float model to a full-integer .tflite at `output`, int8 weights, and read it back.

    `activations`: 'int8' or 'int16'. `calibration` defaults to the model's sidecar NAME.calib.npz. InputError,
    MissingToolError (TensorFlow).
    """
    return read_integer_network(convert(model, output, calibration, activations))


def quantize_for_domain(
    model: PathLike,
    output: PathLike,
    calibration: PathLike | None = None,
    activations: Activations = "int8",
    domain: tuple[float, float] | None = None,
    any_length: bool = False,
) -> IntegerNetwork:
    """As `quantize`, with ranges that hold whatever the float model reaches on inputs of the domain.

    `domain` is for every feature, else each feature's range in the calibration data; `any_length`: after any number of
    steps, in place of the model's own. Certificates over the whole domain need such ranges. InputError also where the
    cell state has no bounded range.
    """
    from codesign.training.cover import convert_for_domain

    network = load_network(model)
    data = load_calibration(calibration or default_calibration_path(model), network.input_shape)
    steps = None if any_length else network.input_shape[0]
    return read_integer_network(
        convert_for_domain(model, output, calibration, activations, input_domain(data.x, domain), steps)
    )


def read(path: PathLike) -> IntegerNetwork:
    """Read an int8 .tflite. InputError if it is none or has operators that are not supported."""
    return read_integer_network(path)


def calibration(model: PathLike, path: PathLike | None = None) -> Calibration:
    """The samples that belong to a model: `path`, or its sidecar NAME.calib.npz. InputError if there are none."""
    network = load_network(model)
    return load_calibration(path or default_calibration_path(model), network.input_shape, network)


def certify(
    float_network: FloatNetwork,
    integer_network: IntegerNetwork,
    data: Calibration,
    radius: str | float = "1lsb",
    samples: int = DEFAULT_SAMPLES,
    region: RegionKind = "ball",
    domain: tuple[float, float] | None = None,
    options: Options | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    output: PathLike | None = None,
    around: Neighbourhood | None = None,
    any_length: bool = False,
    different_models: bool = False,
) -> dict[str, Any]:
    """Certify |integer - float| and give the content of certificate.json.

    `output`: writes it there, and beside it NAME.proof.npz, which 'codesign check' needs.

    Regions: the L-inf ball of `radius` around each of the first `samples` samples, clipped to the domain; or the whole
    domain box; `around` changes the balls (noise, a fixed prefix, the quantisation grid) or names a file of regions.
    The domain is `domain` for every feature, else each feature's range in the data. `any_length`: the domain's bounds
    are to hold for any number of steps; samples outside the domain count as not covered. The bounds hold for every
    semantics profile, TFLM's reference kernels and CMSIS-NN's. `on_progress` gets (regions done, regions in all).
    InputError where the integer weights are not the float ones, rounded, unless `different_models` allows for it; the
    certificate says which it is.
    """
    require_one_model(float_network, integer_network, different_models)
    if region not in get_args(RegionKind):
        raise InputError(f"unknown kind of region '{region}'; use one of {', '.join(get_args(RegionKind))}")
    if any_length and region != "domain":
        raise InputError("a certificate for any number of steps is for the whole domain; add --region domain")
    if region == "domain" and options is not None and options.method == "quadratic":
        raise InputError(
            "the method 'quadratic' is for regions around samples; leave out --method for the whole domain"
        )
    options = replace(options or Options(), classes=data.values is None)
    bounds = input_domain(data.x, domain)
    chosen = select(
        float_network, integer_network.input, data, region, radius, samples, bounds, around or Neighbourhood()
    )
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, len(chosen.regions))

    result = certify_regions(
        float_network,
        integer_network,
        chosen.regions,
        options,
        chosen.counted,
        profile_variants(integer_network),
        advance,
    )
    statement = None
    if region == "domain" and len(result.regions) == 1:
        result, statement = all_inputs(result, profile_variants(integer_network), data.x, any_length)
    proof = proof_content(result)
    document = seal(certificate_document(result, chosen.samples, bounds, statement, data), proof)
    if output is not None:
        write_certificate(document, Path(output), proof)
    return document


def on_grid(network: IntegerNetwork, data: Calibration) -> Calibration:
    """The samples as the device sees them: quantized, and dequantized again (rounded to float32)."""
    from codesign.semantics import dequantize, quantize_input

    x = dequantize(network.input, quantize_input(network, data.x)).astype(np.float32)
    return Calibration(x, data.y, data.values)


def profile_variants(network: IntegerNetwork) -> list[IntegerNetwork]:
    """The same file under the other semantics profiles."""
    return [with_profile(network, profile) for profile in _PROFILES if profile != network.profile]


def build(
    integer_network: IntegerNetwork,
    board: str,
    folder: PathLike,
    weights: Weights = "int8",
    runtime: TflmRuntime | None = None,
) -> Build:
    """Generate C, make a PlatformIO project in `folder` and build the board's firmware.

    `weights`: 'int8' or 'int16' in flash (twice the space, fewer instructions, the same outputs). `runtime`: TFLM's
    interpreter in place of the generated C (codesign.tflm.runtime_option); the network has to be read with its profile
    (`for_runtime`). InputError (unknown board, model too large), MissingToolError (compiler, PlatformIO).
    """
    from codesign.toolchain import build as build_firmware
    from codesign.toolchain import load_board

    return build_firmware(integer_network, load_board(board), folder, weights, runtime)


def for_runtime(network: IntegerNetwork, runtime: TflmRuntime | None) -> IntegerNetwork:
    """The same file under the semantics profile of a runtime (None: of the generated C)."""
    profile: Profile = _PROFILES[0] if runtime is None else runtime.profile(network)
    return network if network.profile == profile else with_profile(network, profile)


def cross_check(
    firmware: Build,
    float_network: FloatNetwork,
    integer_network: IntegerNetwork,
    data: Calibration,
    certificate: dict[str, Any] | None = None,
    samples: int | None = None,
    port: str | None = None,
    emulate: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    drawn: int | None = None,
    stream_steps: int | None = None,
    journal: PathLike | None = None,
    different_models: bool = False,
) -> dict[str, Any]:
    """Flash or emulate the firmware, send it samples over serial, and compare; gives the content of hil.json.

    `samples` limits how many of the data's samples are sent (default all). With a certificate over the whole domain the
    device also answers `drawn` inputs from all of it (`hil_inputs`) and, where that is for any number of steps, a
    stream of `stream_steps` without a reset. Answers that the file `journal` holds are not asked for again.
    InputError where firmware, networks and certificate are not of one model; two `different_models` as for `certify`,
    unless the certificate is of two.
    """
    from codesign.hil import cross_check as check
    from codesign.hil import open_target

    known = certificate is not None and certificate["pair"]["different_models"]
    require_one_model(float_network, integer_network, different_models or known)
    models: list[tuple[str, FloatNetwork | IntegerNetwork, str]]
    models = [(firmware.model_sha256, integer_network, "firmware")]
    if certificate is not None:
        models.append((certificate["int8"]["sha256"], integer_network, "certificate"))
        models.append((certificate["float"]["sha256"], float_network, "certificate"))
    for found, network, place in models:
        if found != network.sha256:
            raise InputError(f"the {place} is about another model than {network.name}; make it again")
    x, labels = hil_inputs(float_network, data, certificate, samples, drawn)
    regions = None if certificate is None else hil_regions(certificate, x, evaluate(float_network, x, logits=True))
    streams = hil_streams(certificate, stream_steps)
    with open_target(firmware, port=port, emulate=emulate) as target:
        return check(
            target,
            integer_network,
            float_network,
            x,
            labels,
            regions,
            firmware.build_id,
            progress=on_progress,
            streams=streams,
            journal=None if journal is None else Path(journal),
            resume=journal is not None,
        )


def hil_inputs(
    network: FloatNetwork,
    data: Calibration,
    certificate: dict[str, Any] | None = None,
    samples: int | None = None,
    drawn: int | None = None,
) -> tuple[npt.NDArray[np.float32], list[int | None] | None]:
    """What `cross_check` sends: x (N, T, D) and labels, None for inputs that have none.

    The first `samples` of the data (default all) and, for a certificate over the whole domain, `drawn` inputs from all
    of it, corners included (default DRAWN). InputError unless `samples` is at least 1, and where a sample lies outside
    such a certificate's domain.
    """
    if samples is not None and samples < 1:
        raise InputError(f"cannot send {samples} samples; ask for at least 1")
    count = len(data.x) if samples is None else min(samples, len(data.x))
    single = data.y is not None and data.y.ndim == 1
    x, labels = data.x[:count], [int(label) for label in data.y[:count]] if single and data.y is not None else None
    if certificate is not None and "all_inputs" in certificate:
        lo, hi = (np.asarray(certificate["domain"][end], np.float64) for end in ("lo", "hi"))
        require_inside(x, (lo, hi))
    number = 0 if certificate is None or "all_inputs" not in certificate else DRAWN if drawn is None else drawn
    if not number or certificate is None:
        return x, None if labels is None else [*labels]
    more = domain_samples(certificate, network, number).x
    return np.concatenate([x, more]), None if labels is None else [*labels, *[None] * number]


def hil_values(
    data: Calibration, x: npt.NDArray[np.float32], samples: int | None = None
) -> npt.NDArray[np.float64] | None:
    """What the outputs of `hil_inputs`' x (N, T, D) for the first `samples` of the data aim at, (N, outputs): NaN for
    inputs that were drawn; None where the data holds no real values."""
    if data.values is None:
        return None
    count = len(data.x) if samples is None else min(samples, len(data.x))
    values = np.full((len(x), data.values.shape[1]), np.nan)
    values[:count] = data.values[:count]
    return values


def hil_streams(certificate: dict[str, Any] | None, steps: int | None = None) -> list[Stream]:
    """The streams that `cross_check` sends: one of `steps` (default STREAM_STEPS) for a certificate for any number of
    steps, else none."""
    if certificate is None or not certificate.get("all_inputs", {}).get("any_length"):
        return []
    return [domain_stream(certificate, STREAM_STEPS if steps is None else steps)]


def domain_samples(certificate: dict[str, Any], network: FloatNetwork, count: int, seed: int = 0) -> Calibration:
    """Inputs of a certificate's domain, corners and held values included, without labels.

    For `cross_check` of certificates over the whole domain: the board answers inputs that no sample is like. InputError
    unless count is at least 1.
    """
    from codesign.verification.affine import Box
    from codesign.verification.all_inputs import float_ends, stream_inputs

    if count < 1:
        raise InputError(f"cannot draw {count} inputs; ask for at least 1")
    lo, hi = (np.asarray(certificate["domain"][end], np.float64) for end in ("lo", "hi"))
    rng = np.random.default_rng(seed)
    x = stream_inputs(Box(lo, hi), count, network.input_shape[0], rng)
    low, high = float_ends(Box(lo, hi))
    x[::4] = np.where(rng.random(x[::4].shape) < 0.5, low, high)
    return Calibration(x, None)


def domain_stream(certificate: dict[str, Any], steps: int, seed: int = 0) -> Stream:
    """A stream of `steps` inputs of a certificate's domain, with what the certificate says of every step.

    InputError for certificates that are not for any number of steps, and for no step at all.
    """
    from codesign.hil import Stream
    from codesign.verification.affine import Box
    from codesign.verification.all_inputs import stream_inputs

    stated = certificate.get("all_inputs")
    if stated is None or not stated["any_length"]:
        raise InputError("the certificate is not for streams; certify with --region domain --any-length")
    if steps < 1:
        raise InputError(f"a stream cannot have {steps} steps; ask for at least 1")
    lo, hi = (np.asarray(certificate["domain"][end], np.float64) for end in ("lo", "hi"))
    x = stream_inputs(Box(lo, hi), 1, steps, np.random.default_rng(seed))[0]
    (region,) = certificate["regions"]
    return Stream(x, np.asarray(region["total_bound"], np.float64), stated["same_class_margin"])


def accuracy(network: FloatNetwork | IntegerNetwork, data: Calibration) -> float | None:
    """Share of the data's labels that the network's classes equal, all steps together; None without labels.

    The class is the largest output's; of one output, which has none, whether it is at least 0.5.
    """
    from codesign.semantics import dequantize, quantize_input, simulate

    if data.y is None:
        return None
    if isinstance(network, FloatNetwork):
        outputs = evaluate(network, data.x)
    else:
        outputs = dequantize(network.output, simulate(network, quantize_input(network, data.x)))
    classes = decisions(outputs)
    return float(np.mean(classes == data.y.reshape(classes.shape))) if classes.size == data.y.size else None
