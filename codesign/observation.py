"""A last look at a certificate that was found valid: both networks at inputs of its regions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from codesign.network import FloatNetwork, evaluate
from codesign.quantization import IntegerNetwork
from codesign.soundness import require_never, require_within


def observe(
    document: dict[str, Any], network: FloatNetwork, integer: IntegerNetwork, tries: int = 4, seed: int = 0
) -> None:
    """Evaluate both networks at the center of every certified region and at `tries` more inputs, half of them corners.

    SoundnessAlarm where one is further off than the region's bound over the reals (float64 stands for these), or of
    another class where that is proved equal.
    """
    from codesign.hil.deployment import certified_regions
    from codesign.semantics import dequantize, quantize_input, simulate

    rng = np.random.default_rng(seed)
    for region, stated in zip(certified_regions(document, integer), document["regions"], strict=True):
        shares = [rng.random(region.lo.shape) for _ in range(tries)]
        x = np.stack([region.center, *(region.at(np.round(s) if k % 2 else s) for k, s in enumerate(shares))])
        real = evaluate(network, x)
        outputs = dequantize(integer.output, simulate(integer, quantize_input(integer, x)))
        error = np.abs(outputs - real).reshape(len(x), -1)
        require_within(
            f"region '{region.name}' of a certificate that the checker finds valid: |integer - float| of an output",
            error.max(0), stated["bound"], partial(dict, inputs=x, region=region.name),
        )  # fmt: skip
        require_never(
            f"region '{region.name}' of a certificate that the checker finds valid: another class than proved",
            region.top1 == "proved" and bool((outputs.argmax(-1) != real.argmax(-1)).any()),
            partial(dict, inputs=x, region=region.name),
        )
