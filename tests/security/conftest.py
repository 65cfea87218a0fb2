"""The gateway of `tests.server`, which these tests share. Each test has queues of its own."""

from __future__ import annotations

from ..server.conftest import gateway, queue

__all__ = ["gateway", "queue"]
