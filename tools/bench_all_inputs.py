"""Accuracy against the all-inputs bound: ordinary, noise-trained, and bound-trained at several strengths.

    python tools/bench_all_inputs.py [digits motion vowels] [--strengths 0.05 0.1 0.2] [--output docs/all-inputs]

Trains each by the recipe of models/train_allinputs.py (--epochs shortens it), certifies the int8 and int16 networks
that an export for the domain amounts to, on the whole test part, and writes OUTPUT.json, OUTPUT.table.md and
OUTPUT.svg. Runs that OUTPUT.json already has are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models"))

import train_allinputs as recipes  # noqa: E402

from codesign.files import write_atomically  # noqa: E402
from codesign.training import BoundModel  # noqa: E402
from codesign.training.callback import float_network, walk  # noqa: E402
from codesign.training.measure import measure  # noqa: E402


def run(task: str, kind: str, strength: float, epochs: int | None) -> dict[str, Any]:
    """One training and its two certificates. Kinds: ordinary, noise, bound."""
    recipe = replace(recipes.RECIPES[task], strength=strength)
    if kind == "ordinary":
        recipe = replace(recipe, noise=0.0)
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    (x, y), (x_test, y_test), _ = recipes.load(recipe.task)
    model = recipes.train(recipe, x, y, verbose=0)
    network = float_network(model, walk(model), x.shape[1])
    row: dict[str, Any] = {"task": task, "kind": kind, "strength": strength, "epochs": recipe.epochs}
    for activations in ("int8", "int16"):
        steps = None if recipe.any_length else x.shape[1]
        m = measure(network, BoundModel(recipe.low, recipe.high, activations, steps), x_test, y_test)
        row["accuracy"] = m.accuracy
        row[activations] = {"bound": m.bound if math.isfinite(m.bound) else None, "covered": m.covered}
    return row


def name(row: dict[str, Any]) -> str:
    return row["kind"] if row["kind"] != "bound" else f"bound, {row['strength']:g}"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| task | training | epochs | test accuracy | bound int8 | covered int8 | bound int16 | covered int16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = []
        for activations in ("int8", "int16"):
            bound = r[activations]["bound"]
            cells += ["none" if bound is None else f"{bound:.3g}", f"{100 * r[activations]['covered']:.1f} %"]
        lines.append(f"| {r['task']} | {name(r)} | {r['epochs']} | {r['accuracy']:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "codesign"
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.2), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for activations, marker in (("int8", "o"), ("int16", "s")):
            chosen = [r for r in rows if r["task"] == task and r[activations]["bound"]]
            chosen.sort(key=lambda r: r[activations]["bound"])
            axis.plot(
                [r[activations]["bound"] for r in chosen], [r["accuracy"] for r in chosen], marker, label=activations
            )
        axis.set(title=task, xlabel="certified bound over all inputs (logits)", xscale="log")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy (float)")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["digits", "motion", "vowels"])
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.05, 0.1, 0.2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "all-inputs")
    a = parser.parse_args()
    recipes.one_thread()
    data = a.output.with_suffix(".json")
    rows: list[dict[str, Any]] = json.loads(data.read_text()) if data.is_file() else []
    kinds = [("ordinary", 0.0), ("noise", 0.0), *(("bound", s) for s in a.strengths)]
    for task in a.tasks:
        for kind, strength in kinds:
            epochs = a.epochs or recipes.RECIPES[task].epochs
            key = (task, kind, strength, epochs)
            if any((r["task"], r["kind"], r["strength"], r["epochs"]) == key for r in rows):
                continue
            rows.append(run(task, kind, strength, a.epochs))
            print(json.dumps(rows[-1]), flush=True)
            rows.sort(
                key=lambda r: (r["task"], r["epochs"], ["ordinary", "noise", "bound"].index(r["kind"]), r["strength"])
            )
            write_atomically(data, json.dumps(rows, indent=1).encode() + b"\n")
    write_atomically(a.output.with_suffix(".table.md"), table(rows).encode())
    plot(rows, a.output.with_suffix(".svg"))
    print(table(rows))


if __name__ == "__main__":
    main()
