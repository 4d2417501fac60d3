"""codesign: proves that the int8 recurrent network on a microcontroller does what its float model does.

The public API is documented in `codesign.api`; its names are loaded on first use: importing the package stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codesign.errors import CodesignError, InputError, MissingToolError, SoundnessAlarm

if TYPE_CHECKING:
    from codesign.api import build, calibration, certify, cross_check, load, quantize, read
    from codesign.deploy import deploy

__version__ = "0.1.0"

__all__ = [
    "CodesignError",
    "InputError",
    "MissingToolError",
    "SoundnessAlarm",
    "build",
    "calibration",
    "certify",
    "cross_check",
    "deploy",
    "load",
    "quantize",
    "read",
]


def __getattr__(name: str) -> Any:
    if name == "deploy":
        from codesign.deploy import deploy as run

        return run
    if name in __all__:
        from codesign import api

        return getattr(api, name)
    raise AttributeError(f"module 'codesign' has no attribute '{name}'")
