"""Child process that runs dReal's Python module: one JSON request a line in, one JSON answer a line out.

A child, because dReal cannot be interrupted from Python and a crash of its native code must not end the
caller. Request: {"obligation": Obligation.to_json(), "scale": 2^k, "precision": delta}. Answer: {"verdict":
"unsat"} or {"verdict": "delta-sat", "box": {variable: [lower, upper]}} or {"error": text}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from codesign.proof.obligation import Obligation


def _function(dreal: Any, kind: str, v: list[Any]) -> Any:
    def sigmoid(t: Any) -> Any:
        return 1 / (1 + dreal.exp(-t))

    if kind == "sigmoid":
        return sigmoid(v[0])
    if kind == "tanh":
        return dreal.tanh(v[0])
    if kind == "exp":
        return dreal.exp(v[0])
    if kind == "sigmoid_diff":
        return sigmoid(v[0] + v[1]) - sigmoid(v[0])
    if kind == "tanh_diff":
        return dreal.tanh(v[0] + v[1]) - dreal.tanh(v[0])
    if kind == "square_difference":
        return (v[0] * v[0] - v[1] * v[1]) / 4
    if kind == "sigmoid_square":
        return sigmoid(v[0]) - v[1] * v[0] * v[0]
    if kind == "tanh_square":
        return dreal.tanh(v[0]) - v[1] * v[0] * v[0]
    if kind == "sigmoid_patch":
        return sigmoid(v[0] + v[1]) - sigmoid(v[0]) - v[2] * v[0] * v[1]
    if kind == "tanh_patch":
        return dreal.tanh(v[0] + v[1]) - dreal.tanh(v[0]) - v[2] * v[0] * v[1]
    if kind == "gate_slopes":
        return v[2] * (v[0] * ((1 - v[0]) * v[1])) + v[3] * (v[0] * (1 - v[1] * v[1]))
    if kind == "forget_slopes":
        return v[2] * v[0] + v[3] * (v[0] * ((1 - v[0]) * v[1]))
    if kind == "product":
        return v[0] * v[1]
    raise ValueError(f"unknown kind {kind}")


def answer(dreal: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Ask dReal whether the negation of the request's obligation is satisfiable."""
    obligation = Obligation.from_json(request["obligation"])
    variables = [dreal.Variable(name) for name in obligation.variables]
    residual = _function(dreal, obligation.kind, variables)
    for slope, variable in zip(obligation.slopes, variables, strict=True):
        if slope:
            residual = residual - slope * variable
    sides = []
    for variable, (lower, upper) in zip(variables, obligation.box, strict=True):
        sides += [variable >= lower, variable <= upper]
    scale = request["scale"]
    outside = dreal.Or(scale * (residual - obligation.lo) < 0, scale * (residual - obligation.hi) > 0)
    config = dreal.Config()
    config.precision = request["precision"]
    config.use_polytope = True
    box = dreal.CheckSatisfiability(dreal.And(*sides, outside), config)
    if box is None:
        return {"verdict": "unsat"}
    found = {}
    for name, variable in zip(obligation.variables, variables, strict=True):
        found[name] = [box[variable].lb(), box[variable].ub()]
    return {"verdict": "delta-sat", "box": found}


def main() -> None:
    """Serve requests until end of input."""
    import dreal

    for line in sys.stdin:
        try:
            reply = answer(dreal, json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
