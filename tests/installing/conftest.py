"""A copy of the repository and its wheel, for the tests that install azsession."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.paths import ROOT

#: The files of a clone that an installation needs. Building writes into the folder, so the tests build in a copy of them.
_FILES = ("azsession", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


class Environment:
    """A new virtual environment.

    Args:
        folder: Where to create it.
    """

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=250)
        self.bin = folder / "bin"

    def run(self, command: str, cwd: Path, *, status: int = 0) -> str:
        """Run a shell command with the environment activated, and check its exit status. Return its output and errors."""
        # Without the repository's own packages and options.
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SERVICEBUS_CONNECTION_STRING")
        environ = {name: value for name, value in os.environ.items() if name not in hidden}
        environ |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=250,
            check=False,
        )
        assert ran.returncode == status, f"{command}\n{ran.stdout}"
        return ran.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files."""
    folder = tmp_path_factory.mktemp("clone")
    for name in _FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A virtual environment in which nothing is installed, for commands that only resolve."""
    return Environment(tmp_path_factory.mktemp("untouched") / "venv")


@pytest.fixture
def fresh(tmp_path: Path) -> Environment:
    """A new virtual environment in the test's own folder."""
    return Environment(tmp_path / "venv")
