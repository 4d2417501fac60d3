"""Proof: states the nonlinear facts that a bound rests on as obligations, and discharges them."""

from __future__ import annotations

from codesign.proof.bounds import (
    sigmoid_diff_plane_residual,
    sigmoid_plane_residual,
    tanh_diff_plane_residual,
    tanh_plane_residual,
)

__all__ = [
    "sigmoid_diff_plane_residual",
    "sigmoid_plane_residual",
    "tanh_diff_plane_residual",
    "tanh_plane_residual",
]
