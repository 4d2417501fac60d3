"""The public CI runs what the README tells users to run, on the systems that it names, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def job() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert set(workflow[True]) >= {"push", "pull_request"}  # YAML reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    (only,) = workflow["jobs"].values()
    return dict(only)


def test_the_commands_are_the_readmes(job: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    commands = job["strategy"]["matrix"]["command"]
    assert commands == ["tools/quickstart", "tools/test"]
    for command in commands:
        assert command in readme
        assert os.access(ROOT / command, os.X_OK)
    assert [step["run"] for step in job["steps"] if "matrix" in step.get("run", "")] == ["${{ matrix.command }}"]


def test_the_systems_are_fresh_containers(job: dict[str, Any]) -> None:
    assert job["strategy"]["matrix"]["system"] == ["debian:12", "ubuntu:22.04", "ubuntu:24.04"]
    assert job["container"] == "${{ matrix.system }}"
    assert job["strategy"]["fail-fast"] is False


def test_nothing_else_is_installed_by_hand(job: dict[str, Any]) -> None:
    """What the two commands need, tools/setup installs; a checkout needs git and certificates."""
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    installs = [script for script in scripts if "apt-get install" in script or "pip install" in script]
    (install,) = installs
    named = [word for word in install.split("apt-get install", 1)[1].split() if not word.startswith("-")]
    assert named == ["git", "ca-certificates"]


def test_no_step_hides_a_failure(job: dict[str, Any]) -> None:
    for step in job["steps"]:
        assert "continue-on-error" not in step
        assert "|| true" not in step.get("run", "")
