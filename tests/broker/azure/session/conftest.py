"""Fixtures of the tests of sessions on Azure: links that are lost, and a broker that gives up early."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from azsession.broker.azure.session import relock

from ....namespaces import Namespace
from ..holders import QUEUE

#: How a holder's link is lost.
LOSSES: dict[str, Callable[[Namespace], object]] = {
    "link-detached": lambda namespace: namespace.detach_links(QUEUE),
    "connection-dropped": lambda namespace: namespace.drop_connections(),
    "connection-closed": lambda namespace: namespace.drop_connections(polite=True),
}


@pytest.fixture(params=list(LOSSES.values()), ids=list(LOSSES))
def lose_link(request: pytest.FixtureRequest) -> Callable[[Namespace], object]:
    """Each way to lose a link."""
    call: Callable[[Namespace], object] = request.param
    return call


@pytest.fixture(autouse=True)
def _slow_relock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a holder whose first attempt was refused wait before the second, so that another holder can be first."""
    monkeypatch.setattr(relock, "RELOCK_PAUSE", 1.6)
