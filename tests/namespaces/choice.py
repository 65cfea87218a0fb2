"""The servers on which the tests of the Azure engine run. Fixtures called `server` are parametrized with them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from azsession.server.amqp import channel, limits
from tests.namespaces.namespace import Namespace
from tests.namespaces.own import OwnNamespace
from tests.standin.require import REQUIRED, require_standin

OWN, STANDIN = "own-endpoint", "stand-in"


def _servers() -> tuple[str, ...]:
    has_standin = importlib.util.find_spec("proton") is not None or os.environ.get(REQUIRED)
    return (OWN, STANDIN) if has_standin else (OWN,)


#: The names of the servers: azsession's own AMQP endpoint and, where it can run, the stand-in.
SERVERS = _servers()


def stand_in_only(reason: str) -> pytest.MarkDecorator:
    """Let a test run on the stand-in alone. Without proton it is skipped.

    Args:
        reason: What the test needs of it.
    """
    assert reason
    return pytest.mark.parametrize("server", [STANDIN], indirect=True)


#: The modules of the endpoint that have its limits, and their names there. The stand-in has arguments of these names.
_LIMITS: dict[str, tuple[ModuleType, str]] = {
    "handle_max": (channel, "MAX_HANDLE"),
    "channel_max": (limits, "MAX_CHANNEL"),
    "idle_timeout": (limits, "IDLE_TIMEOUT"),
    "max_frame_size": (limits, "MAX_FRAME_SIZE"),
}


@contextmanager
def namespace_on(server: str, *, tls: tuple[str, str] | None = None, **other_limits: float) -> Iterator[Namespace]:
    """Run a server during the ``with`` block.

    Args:
        server: Its name.
        tls: The files of a certificate and its key, to serve TLS.
        other_limits: Limits of the connections: `handle_max`, `channel_max`, `idle_timeout` and `max_frame_size`.
    """
    if server == STANDIN:
        options: dict[str, Any] = other_limits
        with require_standin()(tls=tls, **options) as standin:
            yield standin
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in other_limits.items():
            patch.setattr(*_LIMITS[name], limit)
        with OwnNamespace(tls=tls) as own:
            yield own
