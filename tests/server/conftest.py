"""The gateway that most of these tests share; each takes queues of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .raw import Gateway, serving


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    with serving(max_waiting=48, max_body_size=256 * 1024, max_message_size=64 * 1024) as gateway:
        # The threads that begin with the first wait begin now, so that no test seems to leave them behind.
        gateway.holder(gateway.queue(), "first").receive("timeout=0.01")
        yield gateway


@pytest.fixture
def queue(gateway: Gateway) -> str:
    """A queue of this test's own."""
    return gateway.queue()
