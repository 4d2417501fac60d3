"""Regions against samples, and `counted` against labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.checker import CannotCheck
from codesign.checker.result import demand, same
from codesign.network import FloatNetwork, evaluate
from codesign.quantization import Calibration, IntegerNetwork
from codesign.semantics import dequantize, quantize_input


def other_data(stated: object, data: Calibration) -> str:
    """What says that these are not the samples and labels that a certificate names; '' where they are."""
    named = stated if isinstance(stated, dict) else {}
    wrong = [key for key, found in data.describe().items() if named.get(key) != found]
    return f"data/{wrong[0]}: the certificate names other data, or none" if wrong else ""


def check_data(
    document: dict[str, Any], network: FloatNetwork, integer: IntegerNetwork, data: Calibration | None
) -> tuple[str, ...]:
    """Names of what was not derived, for want of `data`.

    Invalid, naming the item, for other data than the certificate's, and where a region or `counted` does not follow
    from it. CannotCheck where a verdict rests on labels that are not given.
    """
    stated, regions = document["data"], document["regions"]
    around = [(k, region) for k, region in enumerate(regions) if region["sample"] is not None]
    labelled = stated is not None and stated["labels_sha256"] is not None
    demand(stated is not None or not around, "data: none, but there are regions around samples")
    demand(labelled or all(r["counted"] for r in regions), "regions/counted: without labels every region counts")
    whole = document.get("all_inputs") or {"samples": None}
    named = whole["samples"] is None or (stated is not None and whole["samples_sha256"] == stated["sha256"])
    demand(named, "all_inputs/samples_sha256: other samples than the certificate's data")
    for k, region in enumerate(regions):
        free = region["sample"] is None
        demand(not free or region["counted"], f"region {k} ('{region['id']}')/counted: it is around no sample")
    if stated is None:
        return ()
    if data is None:
        asked = document["criteria"]["top1_share"] is not None
        if labelled and around and asked:
            raise CannotCheck("a share of regions that count by labels without the data; give it with --data")
        return ("regions/sample", *(["regions/counted"] if labelled else [])) if around else ()
    other = other_data(stated, data)
    demand(not other, other)
    right = _right(network, data, [region["sample"] for _, region in around]) if labelled and around else None
    for place, (k, region) in enumerate(around):
        name, sample = f"region {k} ('{region['id']}')", region["sample"]
        demand(sample < len(data.x), f"{name}/sample: there are {len(data.x)} samples")
        x = data.x[sample].astype(np.float64)
        if region["kind"] == "grid":
            x = dequantize(integer.input, quantize_input(integer, data.x[sample][None]))[0]
        demand(np.array_equal(x, region["center"]), f"{name}/center: not the sample {sample}")
        same(f"{name}/counted", region["counted"], right is None or bool(right[place]))
    return ()


def _right(network: FloatNetwork, data: Calibration, samples: list[int]) -> Any:
    """Whether the float network classifies each sample as labelled, (N,); None where outputs are not one class."""
    if data.y is None or max(samples) >= len(data.x):
        return None
    outputs = evaluate(network, data.x[samples])
    return None if outputs.ndim != 2 or outputs.shape[1] < 2 else outputs.argmax(1) == data.y[samples]
