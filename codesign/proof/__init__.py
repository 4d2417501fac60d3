"""Proof: states the nonlinear facts that a bound rests on as obligations, and discharges them."""

from __future__ import annotations

from codesign.proof.bounds import (
    sigmoid_diff_plane_residual,
    sigmoid_plane_residual,
    tanh_diff_plane_residual,
    tanh_plane_residual,
)
from codesign.proof.obligation import Kind, Obligation, from_planes
from codesign.proof.planes import Planes, PlanesResult, prove_planes
from codesign.proof.smtlib import read_answer, to_smt2
from codesign.proof.solvers import Availability, ProofResult, Prover, availability, prove

__all__ = [
    "Availability",
    "Kind",
    "Obligation",
    "Planes",
    "PlanesResult",
    "ProofResult",
    "Prover",
    "availability",
    "from_planes",
    "prove",
    "prove_planes",
    "read_answer",
    "sigmoid_diff_plane_residual",
    "sigmoid_plane_residual",
    "tanh_diff_plane_residual",
    "tanh_plane_residual",
    "to_smt2",
]
