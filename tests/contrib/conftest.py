"""Fixtures for the tests of all integrations."""

from __future__ import annotations

import pytest

from azsession.config import ENV_CONNECTION_STRING, ENV_GATEWAY_URL, ENV_NAMESPACE


@pytest.fixture(autouse=True)
def no_place_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables that say where the messages are."""
    for name in (ENV_CONNECTION_STRING, ENV_NAMESPACE, ENV_GATEWAY_URL):
        monkeypatch.delenv(name, raising=False)
