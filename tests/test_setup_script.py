"""tools/setup with stand-ins for the system's tools: dReal's PPA is added where it has a release, and only there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "setup"
INSTALLED = "install ok installed"


def setup(folder, release, extras="all", fails=""):
    """Run a copy of tools/setup in `folder`; every command that it calls is written to a log.

    Every package is installed but libibex-dev. `fails`: the command that does not work.
    """
    (folder / "tools").mkdir()
    shutil.copy(SCRIPT, folder / "tools" / "setup")
    programs, log = folder / "bin", folder / "log"
    programs.mkdir()
    (folder / "os-release").write_text(release)

    def program(name, body):
        path = programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{body}\n')
        path.chmod(0o755)

    program("dpkg-query", f'case "$*" in *libibex-dev) exit 1 ;; esac\necho "{INSTALLED}"')
    for name in ("apt-get", "add-apt-repository", "apt-cache"):
        program(name, "exit 100" if name == fails else "exit 0")
    program("sudo", '"$@"')
    python = programs / "python3.11"
    program("python3.11", f"[ \"$1 $2\" != '-m venv' ] || {{ mkdir -p .venv/bin && cp {python} .venv/bin/python; }}")
    environment = {
        **os.environ,
        "PATH": f"{programs}:/usr/bin:/bin",
        "CODESIGN_OS_RELEASE": str(folder / "os-release"),
        "CODESIGN_PYTHON": str(python),
    }
    run = subprocess.run(
        ["sh", str(folder / "tools" / "setup"), extras], capture_output=True, text=True, env=environment, timeout=60
    )
    return run, log.read_text()


def release(name, version):
    return f'NAME="some name"\nID={name}\nVERSION_ID="{version}"\n'


@pytest.mark.parametrize("version", ["20.04", "22.04"])
def test_the_library_of_dreal_is_installed_from_its_ppa(tmp_path, version):
    run, log = setup(tmp_path, release("ubuntu", version))
    assert run.returncode == 0, run.stderr
    assert "add-apt-repository -y ppa:dreal/dreal" in log
    assert "apt-get install -q -y --no-install-recommends libibex-dev" in log
    assert "going on without" not in run.stderr
    assert "pip install -q --disable-pip-version-check -e .[all]" in log


@pytest.mark.parametrize("fails", ["apt-get", "add-apt-repository"])
def test_where_that_fails_the_setup_goes_on_and_says_so(tmp_path, fails):
    run, log = setup(tmp_path, release("ubuntu", "22.04"), "all,dev", fails)
    assert run.returncode == 0, run.stderr
    assert "libibex-dev could not be installed from ppa:dreal/dreal; going on without dReal" in run.stderr
    assert "pip install -q --disable-pip-version-check -e .[all,dev]" in log


@pytest.mark.parametrize(
    ("told", "extras"),
    [
        (release("ubuntu", "24.04"), "all"),
        (release("debian", "12"), "all"),
        (release("fedora", "40"), "all"),
        ("", "all"),
        (release("ubuntu", "22.04"), "convert"),
    ],
)
def test_elsewhere_nothing_is_added(tmp_path, told, extras):
    run, log = setup(tmp_path, told, extras)
    assert run.returncode == 0, run.stderr
    assert "ppa" not in log
    assert "libibex" not in run.stderr
    assert f"-e .[{extras}]" in log
