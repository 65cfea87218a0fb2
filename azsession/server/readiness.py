"""The check behind ``/readyz``: whether the broker can store and deliver messages now."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from ..broker.base import Broker
from ..broker.calls import CallContext
from ..errors import ProviderError, QueueError
from ..protocol.error_codes import SERVER_BUSY

#: Seconds that a check may take.
READY_TIMEOUT = 5.0
#: Seconds for which the result of a check is used again. The route needs no token, and a check writes to the disk.
READY_SECONDS = 1.0


class Readiness:
    """Checks the broker, at most once at a time and once in `READY_SECONDS`. Safe to use from many threads."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.Lock()  # Guards _check and _started.
        self._check: Future[None] | None = None
        self._started = 0.0

    def check(self) -> Future[None]:
        """Return the future of a running or recent check, or of a new one. It fails with the reason."""
        with self._lock:
            now = time.monotonic()
            check = self._check
            if check is not None and (not check.done() or now < self._started + READY_SECONDS):
                return check
            context = CallContext(blocking=False, deadline=now + READY_TIMEOUT)
            self._check = check = Future()
            self._started = now
        self._broker.check_ready(context=context).add_done_callback(lambda done: _report(done, check))
        return check


def _report(done: Future[None], check: Future[None]) -> None:
    error = done.exception()
    if error is None:
        check.set_result(None)
    elif isinstance(error, QueueError):
        # The answer has status 503 for any reason.
        check.set_exception(ProviderError(str(error), code=SERVER_BUSY, is_transient=True))
    else:
        check.set_exception(error)
