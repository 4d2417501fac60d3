"""The Keras callback that trains a model for its all-inputs bound. Importing this module needs tf_keras or Keras 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codesign.errors import InputError
from codesign.network import Dense, FloatNetwork, Lstm
from codesign.network.model import Layer as NetworkLayer
from codesign.training.bound import BoundModel, DenseVariables, Layer, LstmVariables, output_bound

_IGNORED = ("InputLayer", "Dropout", "GaussianNoise", "GaussianDropout", "ActivityRegularization")
GATE_REACH = 2.5  # largest input part of a gate's argument to begin with, for inputs in [-1, 1]
_HEAD = ("linear", "relu", "tanh", "sigmoid", "softmax")


@dataclass(frozen=True)
class Settings:
    """How the bound enters the training.

    The loss gets strength * log(bound + floor), `bound` in logits; the strength starts at `early` times its value and
    falls to it over the first `warm_up` share of the epochs. `floor` keeps the network from collapsing to zero.
    `worst_case`: share of the model's own loss taken on worst-case outputs: every wrong class is raised by as much as
    the integer network can favour it (as interval bound propagation trains robust networks; Gowal et al., "On the
    effectiveness of interval bound propagation", 2018). It trains for the share of inputs that the certificate covers,
    and takes a classifier: labels are class numbers or one-hot.
    `caution`: see `BoundModel`. Where the certified bound lies far above the estimate, more of it helps.
    `initialise`: shrink recurrent weights and limit forget gates' biases to -0.5 before the first epoch: the bound
    starts small. `memory`: above 0, biases of forget gates from log 1 to log `memory` instead, and their negatives for
    input gates: cells that forget after 1 to `memory` steps, as long sequences need (chrono initialisation; Tallec and
    Ollivier, "Can recurrent neural networks warp time?", 2018).
    `certify_every`: epochs between certified bounds in the logs; 0 for none.
    `snap`: train with weights on the int8 grid (straight-through), and leave them there.
    """

    strength: float = 0.1
    floor: float = 0.05
    early: float = 4.0
    warm_up: float = 0.2
    worst_case: float = 0.0
    caution: float = 1.0
    initialise: bool = True
    memory: float = 0.0
    snap: bool = True
    certify_every: int = 10


def walk(model: Any) -> list[Any]:
    """The model's layers that compute something. InputError for those that the bound does not cover."""
    layers = [layer for layer in model.layers if type(layer).__name__ not in _IGNORED]
    seen_dense = False
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind == "LSTM" and not seen_dense:
            names = [getattr(f, "__name__", "") for f in (layer.activation, layer.recurrent_activation)]
            if names != ["tanh", "sigmoid"] or not layer.use_bias:
                raise InputError(f"layer '{layer.name}': only LSTMs with tanh, sigmoid and a bias can be certified")
            if layer.return_sequences and type(layers[min(index + 1, len(layers) - 1)]).__name__ != "LSTM":
                raise InputError(f"layer '{layer.name}' returns sequences; the bound covers heads on the last step")
        elif kind == "Dense" and index and layer.activation.__name__ in _HEAD:
            seen_dense = True
        else:
            raise InputError(
                f"layer '{layer.name}' ({kind}) is not covered by the all-inputs bound: it takes LSTM layers "
                "and, on the last step, Dense layers"
            )
    if not layers or type(layers[0]).__name__ != "LSTM":
        raise InputError("the model has no LSTM in front; the all-inputs bound is made for LSTMs with a Dense head")
    if int(layers[-1].units) < 2:
        raise InputError(
            "the model has one output, which is no class: training for all inputs widens the margins between classes; "
            "train it as usual, and certify --threshold T or --epsilon E"
        )
    return layers


def _variables(layer: Any) -> list[Any]:
    holder = layer.cell if type(layer).__name__ == "LSTM" else layer
    if type(layer).__name__ == "LSTM":
        return [holder.kernel, holder.recurrent_kernel, holder.bias]
    return [holder.kernel, holder.bias] if layer.use_bias else [holder.kernel]


def bound_layers(layers: list[Any]) -> list[Layer]:
    """The layers as the bound takes them, with their variables' current values as tensors."""
    import tensorflow as tf

    result: list[Layer] = []
    for layer in layers:
        values = [tf.convert_to_tensor(v) for v in _variables(layer)]
        if type(layer).__name__ == "LSTM":
            result.append(LstmVariables(*values))
        else:
            bias = values[1] if len(values) > 1 else tf.zeros([values[0].shape[1]])
            result.append(DenseVariables(values[0], bias, layer.activation.__name__))
    return result


def float_network(model: Any, layers: list[Any], steps: int) -> FloatNetwork:
    """The model as codesign's float network."""
    result: list[NetworkLayer] = []
    for layer in layers:
        values = [np.asarray(v, np.float32) for v in map(np.asarray, layer.get_weights())]
        if type(layer).__name__ == "LSTM":
            H = values[1].shape[0]
            W, R = (v.reshape(v.shape[0], 4, H).transpose(1, 2, 0) for v in values[:2])
            result.append(Lstm(layer.name, W, R, values[2].reshape(4, H), bool(layer.return_sequences)))
        else:
            bias = values[1] if len(values) > 1 else np.zeros(values[0].shape[1], np.float32)
            result.append(Dense(layer.name, values[0].T, bias, layer.activation.__name__))
    features = result[0].W.shape[2]  # type: ignore[union-attr]
    return FloatNetwork(model.name, (steps, int(features)), tuple(result), "0" * 64, "training")


def snapped(value: Any, gates: int) -> Any:
    """A Keras kernel on the int8 grid of the converter: one scale a gate (`gates` 4) or, with 0, a column."""
    import tensorflow as tf

    if gates:
        return tf.concat([_snap(part, None) for part in tf.split(value, gates, axis=1)], 1)
    return _snap(value, 0)


def _snap(value: Any, axis: int | None) -> Any:
    import tensorflow as tf

    scale = tf.reduce_max(tf.abs(value), axis=axis, keepdims=True) / 127.0 + 1e-12
    return tf.round(value / scale) * scale


def worst_outputs(y: Any, outputs: Any, pairs: Any, softmax: bool) -> Any:
    """`outputs` (B, M) with every wrong class raised by `pairs` (M, M): how much the integer network can favour it.

    y: class numbers (B,) or (B, 1), or one-hot (B, M). Logits for logits; probabilities where `softmax`.
    """
    import tensorflow as tf

    logits = tf.math.log(tf.maximum(outputs, 1e-7)) if softmax else outputs
    y = tf.convert_to_tensor(y)
    one_hot = len(y.shape) == 2 and y.shape[1] == outputs.shape[1] and outputs.shape[1] > 1
    label = tf.argmax(y, axis=1) if one_hot else tf.cast(tf.reshape(y, [-1]), tf.int64)
    worst = logits + tf.gather(tf.linalg.set_diag(pairs, tf.zeros_like(pairs[0])), label)
    return tf.nn.softmax(worst) if softmax else worst


class Grid:
    """Straight-through snapping: gradients are taken at snapped weights and applied to the ones behind them."""

    def __init__(self, layers: list[Any]) -> None:
        import tensorflow as tf

        self.items: list[tuple[Any, Any, int]] = []
        for layer in layers:
            gates = 4 if type(layer).__name__ == "LSTM" else 0
            for variable in _variables(layer)[: 2 if gates else 1]:
                behind = tf.Variable(tf.convert_to_tensor(variable), trainable=False)
                self.items.append((variable, behind, gates))
        self.enter = tf.function(self._enter)
        self.leave = tf.function(self._leave)

    def _enter(self) -> None:
        for variable, behind, gates in self.items:
            variable.assign(snapped(behind, gates))

    def _leave(self) -> None:
        for variable, behind, gates in self.items:
            behind.assign_add(variable - snapped(behind, gates))


def make_callback(keras: Any, model: Any, bound: BoundModel, settings: Settings) -> Any:
    """The callback, of `keras`' own Callback class."""
    import tensorflow as tf

    layers = walk(model)
    steps = bound.steps or 1

    class AllInputs(keras.callbacks.Callback):  # type: ignore[misc]
        """Adds the bound to the loss, snaps the weights, and reports both per epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.strength = tf.Variable(settings.strength, trainable=False, dtype=tf.float32)
            self.estimate = tf.Variable(0.0, trainable=False, dtype=tf.float32)
            self.grid: Grid | None = None
            self.history: list[dict[str, float]] = []
            original = model.compute_loss

            def compute_loss(*args: Any, **kwargs: Any) -> Any:
                each, pairs = output_bound(bound_layers(layers), replace(bound, caution=settings.caution))
                self.estimate.assign(tf.reduce_max(each))
                smooth = tf.reduce_mean(each**4) ** 0.25
                total = self.strength * tf.math.log(smooth + settings.floor)
                if settings.worst_case < 1:
                    total += (1 - settings.worst_case) * original(*args, **kwargs)
                if settings.worst_case > 0:
                    x, y, outputs, *rest = (*args, *(kwargs[k] for k in ("x", "y", "y_pred") if k in kwargs))
                    worst = worst_outputs(y, outputs, pairs, layers[-1].activation.__name__ == "softmax")
                    others = {k: v for k, v in kwargs.items() if k not in ("x", "y", "y_pred")}
                    total += settings.worst_case * original(x, y, worst, *rest, **others)
                return total

            model.compute_loss = compute_loss

        def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
            if settings.initialise and self.grid is None:
                for layer in layers:
                    if type(layer).__name__ == "LSTM":
                        kernel, recurrent, bias = (np.asarray(w) for w in layer.get_weights())
                        units = recurrent.shape[0]
                        scaled = recurrent * (0.2 / max(float(recurrent.std()) * np.sqrt(units), 0.2))
                        bias = bias.copy()
                        bias[units : 2 * units] = np.minimum(bias[units : 2 * units], -0.5)
                        if settings.memory > 0:
                            forget = np.log(np.linspace(1.0, max(settings.memory, 1.0), units))
                            bias[:units], bias[units : 2 * units] = -forget, forget
                        reach = float(np.abs(kernel).sum(0).max())
                        layer.set_weights([kernel * min(1.0, GATE_REACH / reach), scaled, bias])
            if settings.snap and self.grid is None:
                self.grid = Grid(layers)

        def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            share = epoch / max(1, int(self.params.get("epochs") or 1))
            extra = max(0.0, 1 - share / settings.warm_up) if settings.warm_up > 0 else 0.0
            self.strength.assign(settings.strength * (1 + (settings.early - 1) * extra))

        def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            if self.grid is not None:
                self.grid.enter()

        def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            if self.grid is not None:
                self.grid.leave()

        def on_test_begin(self, logs: Mapping[str, float] | None = None) -> None:
            if self.grid is not None:
                self.grid.enter()

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            if self.grid is not None:
                self.grid.enter()
            if logs is not None:
                logs["all_inputs_bound"] = float(self.estimate.numpy())
                last = epoch + 1 == int(self.params.get("epochs") or 0)
                if settings.certify_every and (last or (epoch + 1) % settings.certify_every == 0):
                    logs["certified"] = self.certified()
                self.history.append({"epoch": epoch, **{k: float(v) for k, v in logs.items()}})

        def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
            if self.grid is not None:
                self.grid.enter()

        def certified(self) -> float:
            """The proved bound on every logit, of the integer network that an export for the domain amounts to."""
            from codesign.training.measure import certified_bound

            return certified_bound(float_network(model, layers, steps), bound)

    return AllInputs()
