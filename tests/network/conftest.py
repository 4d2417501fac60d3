import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def keras_models(tmp_path_factory):
    """A folder of models and predictions made by make_models.py; skipped where TensorFlow is not installed."""
    for name in ("tensorflow", "tf_keras", "keras"):
        if subprocess.run(
            [sys.executable, "-c", f"import importlib.util as u; exit(not u.find_spec({name!r}))"]
        ).returncode:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("keras-models")
    done = subprocess.run([sys.executable, str(HERE / "make_models.py"), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def fixtures():
    return HERE.parent / "fixtures"
