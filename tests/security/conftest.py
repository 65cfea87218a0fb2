"""The gateway that these tests share: the one of `tests.server`, with queues of each test's own."""

from __future__ import annotations

from ..server.conftest import gateway, queue

__all__ = ["gateway", "queue"]
