"""The set-up files agree with each other and name no host."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(requirement):
    """A requirement's bare name, as package registries compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_every_requirement_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.match(r"[\w.-]+==[\w.]+( ; .+)?$", pin) for pin in pins)
    wanted = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    assert {normal(requirement) for requirement in wanted} <= {normal(pin) for pin in pins}


def test_conda_environment_has_every_dependency():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(item["pip"] for item in listed if isinstance(item, dict))
    conda = {normal(item) for item in listed if isinstance(item, str)}
    conda |= {normal(item) for item in pip if not item.startswith("-")}
    names = {"torch": "pytorch-gpu"}
    assert {names.get(normal(r), normal(r)) for r in PROJECT["dependencies"]} <= conda


def test_ci_runs_the_tests_and_nothing_else():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines == ["#!/usr/bin/env bash", "set -eu", 'cd "$(dirname "$0")/.."', "make test"]


@pytest.mark.parametrize(
    "name",
    [
        "constraints.txt",
        "environment.yml",
        "Makefile",
        "tools/setup.sh",
        ".ci/run",
        ".pre-commit-config.yaml",
        ".github/workflows/test.yml",
    ],
)
def test_no_host_is_named(name):
    text = (ROOT / name).read_text()
    assert "://" not in text and not re.search(r"\b[\w-]+\.(com|org|net|io)\b", text)


def test_make_alone_lists_the_targets():
    text = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint", "docs", "docs-check", "gpu-check", "clean"):
        assert f"make {target} " in text
