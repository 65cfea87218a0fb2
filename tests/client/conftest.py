"""The fixture of tests that use one session of a gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession import ServiceBusProvider, SessionClient


@pytest.fixture
def session(azsession_provider: ServiceBusProvider) -> Iterator[SessionClient]:
    with azsession_provider.create_session_client("orders", "s1") as session:
        yield session
