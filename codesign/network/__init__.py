"""The float network as data, its readers (.h5, .keras, float .tflite), and its evaluation in float64."""

from codesign.network.evaluation import (
    activate,
    decisions,
    evaluate,
    evaluate_layers,
    final_activation,
    layer_shapes,
    output_size,
    without_final_softmax,
)
from codesign.network.model import (
    GATES,
    Activation,
    ActivationKind,
    Dense,
    FloatNetwork,
    Layer,
    Lstm,
    Reshape,
)
from codesign.network.reading import load_network

__all__ = [
    "GATES",
    "Activation",
    "ActivationKind",
    "Dense",
    "FloatNetwork",
    "Layer",
    "Lstm",
    "Reshape",
    "activate",
    "decisions",
    "evaluate",
    "evaluate_layers",
    "final_activation",
    "layer_shapes",
    "load_network",
    "output_size",
    "without_final_softmax",
]
