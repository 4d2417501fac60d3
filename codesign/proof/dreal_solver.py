"""dReal 4 as a prover: its Python module where that loads, else a `dreal` executable on the PATH.

Only 'unsat' of the negation proves an obligation. delta-sat, a timeout, a crash or an answer that cannot be
read never does. A delta-sat box's centre is evaluated rigorously, and refutes if it lies outside [lo, hi].
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Literal

from codesign.errors import InputError, MissingToolError
from codesign.proof.closed_form import gap
from codesign.proof.functions import violates
from codesign.proof.obligation import Obligation
from codesign.proof.smtlib import PRECISION, DrealAnswer, read_answer, scale_exponent, to_smt2


@dataclass(frozen=True)
class DrealState:
    """How dReal can be run: `mode` 'module' or 'executable' (then `path`), or None with `reason` and `fix`.

    `version` is what the executable says of itself, or the Python package's.
    """

    mode: Literal["module", "executable"] | None
    path: str
    version: str
    reason: str
    fix: str


@dataclass(frozen=True)
class DrealOutcome:
    """`status` is 'proved', 'refuted' (then with `point`) or 'unknown'."""

    status: Literal["proved", "refuted", "unknown"]
    point: tuple[float, ...] | None
    detail: str


def find_dreal() -> DrealState:
    """Look for a dReal that runs; the import is tried in a child process, since it loads native code."""
    missing = _import_problem(sys.executable, os.environ.get("PYTHONPATH", ""))
    if not missing:
        return DrealState("module", "", _package_version(), "", "")
    executable = shutil.which("dreal")
    if not executable:
        return DrealState(None, "", "", f"{missing}; and no dreal executable is on the PATH", _fix(missing))
    version, problem = _executable_version(executable)
    if version:
        return DrealState("executable", executable, version, "", "")
    return DrealState(None, "", "", f"{missing}; and {executable} {problem}", _fix(missing))


def _package_version() -> str:
    try:
        return metadata.version("dreal")
    except metadata.PackageNotFoundError:
        return "of unknown version"


@functools.lru_cache(maxsize=4)
def _executable_version(path: str) -> tuple[str, str]:
    """The version of dReal 4 that `path --version` prints ('dReal v4.21.06.2 (Release Build)'), or '' and why not."""
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, ValueError) as error:
        return "", f"does not run ({error})"
    except subprocess.TimeoutExpired:
        return "", "does not say its version in 60 s"
    found = re.search(r"^dReal v(4\.[\w.]+)", run.stdout, flags=re.MULTILINE)
    if run.returncode == 0 and found:
        return found[1], ""
    libraries = _missing_libraries([path])
    if libraries:
        return "", f"lacks the shared libraries {', '.join(libraries)}"
    return "", f"is not a dReal 4 (its --version says {(run.stdout.strip() or run.stderr.strip())[:80]!r})"


@functools.lru_cache(maxsize=4)
def _import_problem(python: str, path: str) -> str:
    """Empty if `import dreal` works in a fresh interpreter, else one clause that says why not."""
    spec = importlib.util.find_spec("dreal")
    if spec is None:
        if sys.version_info >= (3, 12):
            return "the Python package dreal has no build for Python 3.12 or newer"
        return "the Python package dreal is not installed"
    try:
        run = subprocess.run([python, "-c", "import dreal"], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "importing the Python package dreal takes over 60 s"
    if run.returncode == 0:
        return ""
    folders = spec.submodule_search_locations or []
    libraries = _missing_libraries([str(module) for folder in folders for module in Path(folder).glob("_dreal*.so")])
    if libraries:
        return f"the Python package dreal lacks the shared libraries {', '.join(libraries)}"
    last = run.stderr.strip().splitlines()[-1:] or [f"exit code {run.returncode}"]
    return f"the Python package dreal does not load ({last[0]})"


def _missing_libraries(binaries: list[str]) -> list[str]:
    ldd = shutil.which("ldd")
    if not ldd or not binaries:
        return []
    listing = subprocess.run([ldd, *binaries], capture_output=True, text=True).stdout
    return sorted(set(re.findall(r"^\s*(\S+) => not found", listing, flags=re.MULTILINE)))


_EXECUTABLE = (
    "put dReal's Docker image on the PATH, as an executable script named dreal that runs: "
    'docker run --rm -v /tmp:/tmp dreal/dreal4 dreal "$@"'
)
_PPA_RELEASES = ("20.04", "22.04")
_LIBRARIES = "coinor-libclp1 libnlopt0"


def _fix(problem: str) -> str:
    """What makes dReal run on this system: its Python package with the libraries that this lacks, or an executable."""
    if "Python 3.12" in problem:
        return f"use Python 3.11 or older with pip install 'codesign[dreal]', or {_EXECUTABLE}"
    package = "" if "shared lib" in problem else "pip install 'codesign[dreal]', and "
    if sys.platform == "darwin":
        return package + "brew tap robotlocomotion/director && brew install ibex@2.7.4 clp nlopt"
    try:
        told = platform.freedesktop_os_release()
    except OSError:
        told = {}
    system, release = told.get("ID", ""), told.get("VERSION_ID", "")
    if system == "ubuntu" and release in _PPA_RELEASES:
        return (
            f"{package}sudo add-apt-repository ppa:dreal/dreal && sudo apt-get update && "
            f"sudo apt-get install libibex-dev {_LIBRARIES}"
        )
    if system == "ubuntu":
        return (
            f"{_EXECUTABLE}; dReal's PPA has its library for Ubuntu {' and '.join(_PPA_RELEASES)} only, "
            f"not for {release or 'this one'}"
        )
    if system == "debian":
        return (
            f"{package}sudo apt-get install {_LIBRARIES}, and copy libibex.so, out of the package libibex-dev for "
            f"Ubuntu 22.04 of ppa:dreal/dreal (dpkg-deb -x), into {_package_folder()}; or {_EXECUTABLE}"
        )
    return _EXECUTABLE


def _package_folder() -> str:
    spec = importlib.util.find_spec("dreal")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return folders[0] if folders else "the folder of the Python package dreal"


class DrealProver:
    """Decides obligations one by one; keeps one child process of the Python module alive between them.

    Raises MissingToolError with the reason and the fix where no dReal can be run. Use as a context manager.
    """

    def __init__(self) -> None:
        self._state = find_dreal()
        self._child: subprocess.Popen[str] | None = None
        if self._state.mode is None:
            raise MissingToolError(f"dReal cannot be used: {self._state.reason}. To install it: {self._state.fix}")

    def __enter__(self) -> DrealProver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_child()

    def decide(self, obligation: Obligation, timeout_s: float) -> DrealOutcome:
        """Ask for the negation's satisfiability, scaled so that delta lies below the gap (see `scale_exponent`)."""
        room = gap(obligation)
        try:
            if self._state.mode == "module":
                answer = self._ask_module(obligation, room, timeout_s)
            else:
                answer = self._ask_executable(obligation, room, timeout_s)
        except (InputError, OSError, ValueError, KeyError, TypeError) as error:
            return DrealOutcome("unknown", None, f"dReal failed: {error}")
        except subprocess.TimeoutExpired:
            return DrealOutcome("unknown", None, f"dReal gave no answer in {timeout_s:g} s")
        if answer.verdict == "unsat":
            return DrealOutcome("proved", None, "unsat")
        centre = tuple(
            min(max(0.5 * sum(answer.box.get(name, side)), side[0]), side[1])
            for name, side in zip(obligation.variables, obligation.box, strict=True)
        )
        if answer.box and violates(obligation, centre):
            return DrealOutcome("refuted", centre, "delta-sat, and its point is outside in rigorous arithmetic")
        return DrealOutcome("unknown", None, "delta-sat")

    def _ask_executable(self, obligation: Obligation, room: float, timeout_s: float) -> DrealAnswer:
        with tempfile.TemporaryDirectory(prefix="codesign-dreal-") as folder:
            path = Path(folder) / "obligation.smt2"
            path.write_text(to_smt2(obligation, room), encoding="ascii")
            run = subprocess.run(
                [self._state.path, "--model", str(path)], capture_output=True, text=True, timeout=timeout_s
            )
        # A file with a syntax error ends in exit code 0, no answer and a message on stderr.
        if run.returncode != 0 or not run.stdout.strip():
            said = (run.stderr.strip() or run.stdout.strip())[:200]
            raise InputError(f"exit code {run.returncode}, {said!r}")
        return read_answer(run.stdout)

    def _ask_module(self, obligation: Obligation, room: float, timeout_s: float) -> DrealAnswer:
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "codesign.proof.dreal_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        request = {
            "obligation": obligation.to_json(),
            "scale": 2.0 ** scale_exponent(obligation, room),
            "precision": PRECISION,
        }
        child = self._child
        if child.stdin is None or child.stdout is None:
            raise OSError("the child process has no pipes")
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self._stop_child()
                raise subprocess.TimeoutExpired("dreal", timeout_s)
        line = child.stdout.readline()
        if not line:
            code = child.wait()
            self._child = None
            raise OSError(f"the child process ended with code {code}")
        reply = json.loads(line)
        if reply.get("verdict") == "unsat":
            return DrealAnswer("unsat", {})
        if reply.get("verdict") == "delta-sat":
            return DrealAnswer("delta-sat", {name: (side[0], side[1]) for name, side in reply["box"].items()})
        raise InputError(str(reply.get("error", "an answer that cannot be read")))

    def _stop_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None
