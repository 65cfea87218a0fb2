"""Debian's Prometheus and its checking tool, for the tests that use them."""

from __future__ import annotations

import os
import shutil

import pytest

#: If this variable is set, the tests with Prometheus fail without it instead of being skipped.
REQUIRED = "AZSESSION_REQUIRE_PROMETHEUS"


def require(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``. Skip the test if it is not installed."""
    found = shutil.which(name)
    if found is not None:
        return found
    if os.environ.get(REQUIRED):
        pytest.fail(f"{name} is not installed (Debian: apt-get install prometheus)")
    pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus)")
