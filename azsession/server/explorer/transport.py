"""The functions of the transport that the Explorer needs. `http.app` passes them: the Explorer knows no HTTP server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Protocol

from ...errors import MessageTooLargeError


class Wait(Protocol):
    """Waits in the event loop for a result of the broker; see `http.waiting.result_of`."""

    def __call__(self, future: Future[Any], watch: None, *, patience: float | None = None) -> Awaitable[Any]: ...


class ReadBody(Protocol):
    """Reads the body of a request; see `http.body.Body.read`."""

    def __call__(self, limit: int, too_large: Callable[[int | None], MessageTooLargeError]) -> Awaitable[bytes]: ...
