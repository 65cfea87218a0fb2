"""The gateway that most of these tests share. Each test uses queues of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .raw import Gateway, Holder, fresh_id, serving


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    with serving(max_waiting=48, max_body_size=256 * 1024, max_message_size=64 * 1024) as gateway:
        # The first wait starts threads. Start them here, so that no test seems to leak them.
        gateway.holder(gateway.queue(), "first").receive("timeout=0.01")
        yield gateway


@pytest.fixture
def queue(gateway: Gateway) -> str:
    """A queue for this test only."""
    return gateway.queue()


@pytest.fixture(params=["plain", "version 1"])
def holder(request: pytest.FixtureRequest, gateway: Gateway, queue: str) -> Holder:
    """A holder of the session `s`, once in each dialect."""
    return gateway.holder(queue, "s", None if request.param == "plain" else fresh_id())
