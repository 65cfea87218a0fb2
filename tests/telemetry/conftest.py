"""Fixtures of the tests of telemetry. The arrangements are those of `tests/api`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..api.conftest import arrangement, azure_gateway, provider, queue, sid
from .exported import Exported, exported

__all__ = ["arrangement", "azure_gateway", "provider", "queue", "sid"]


@pytest.fixture
def telemetry() -> Iterator[Exported]:
    """The spans and measurements of the test."""
    found = exported()
    found.clear()
    found.is_on = True
    yield found
    found.is_on = False
    found.clear()
