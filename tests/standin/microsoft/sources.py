"""The download of the source distribution of azure-servicebus, which has Microsoft's tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.standin.require import REQUIRED

_PACKAGE = "azure-servicebus"


def download_tests(folder: Path) -> Path:
    """Download the tests of the installed azure-servicebus into a folder with pip; return the folder with the tests.

    Without the source distribution, skip the test, or fail it if `REQUIRED` is set.
    """
    wanted = f"{_PACKAGE}=={version(_PACKAGE)}"
    options = ["--no-deps", "--no-binary", _PACKAGE, "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, wanted], capture_output=True, text=True, timeout=200
        )
        problem = done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = "pip did not end within 40 seconds"
    archives = [] if problem else list(folder.glob("*.tar.gz"))
    if not archives:
        text = f"needs the source distribution of {wanted}, and pip could not download it: {problem or 'it is no .tar.gz'}"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and this {text}", pytrace=False)
        pytest.skip(text)
    with tarfile.open(archives[0]) as archive:
        # Versions of Python that have filters warn without one.
        filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, [each for each in archive if "/tests/" in each.name and each.isfile()], **filters)
    return next(folder.glob("*/tests"))
