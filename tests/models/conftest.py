"""The training code is a set of scripts, not a package: its folder goes on the import path."""

import sys
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "models"
sys.path.insert(0, str(MODELS))
