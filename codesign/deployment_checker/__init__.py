"""Verifies the output folder of a deployment against the float model that the user gives, trusting no file in it.

On top of the certificate's checkers. What the sign-off says is computed again, by the same pure functions that made it,
from evidence that was itself verified here first: docs/soundness.md.
"""

from codesign.deployment_checker.check import FolderResult, check_folder

__all__ = ["FolderResult", "check_folder"]
