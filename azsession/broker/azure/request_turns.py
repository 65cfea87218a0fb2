"""`RequestTurns`: requests that callers may repeat, one attempt at a time. `MessageScheduler` and `Purger` have one each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs

from .namespace import Namespace
from .operation import Operation
from .transport.task import LocalFuture

S = TypeVar("S")
T = TypeVar("T")


@attrs.define(eq=False)
class _Request(Generic[S]):
    """A request of a caller.

    Attributes:
        state: What its attempts have found out.
        ended: Is done when the attempt that is under way ends; `None` without one.
    """

    state: S
    ended: LocalFuture[None] | None = None


class RequestTurns(Generic[S]):
    """Keeps the state of each request for its later attempts. For the loop's thread.

    Args:
        namespace: The namespace, whose time limit applies to a wait for another attempt.
        new_state: Makes the state of a new request.
        limit: Requests that are remembered at most.
    """

    def __init__(self, namespace: Namespace, new_state: Callable[[], S], limit: int) -> None:
        self._namespace = namespace
        self._new_state = new_state
        self._limit = limit
        self._requests: OrderedDict[str, _Request[S]] = OrderedDict()

    async def run(self, request_id: str, attempt: Callable[[S], Awaitable[T]], operation: Operation) -> T:
        """Run an attempt of a request, after the other attempts of the same request. Return its result.

        Args:
            request_id: The same for all attempts of one request; ``""`` for none.
            attempt: Does the work. It gets the state of the request.
            operation: The call.

        Raises:
            ConnectionFailedError: Another attempt did not end in time.
            QueueError: An error of the attempt.
        """
        request = _Request(self._new_state())
        if request_id:
            request = self._requests.setdefault(request_id, request)
        while len(self._requests) > self._limit:
            self._requests.popitem(last=False)
        while request.ended is not None:
            await self._namespace.wait(request.ended, operation)
        ended = request.ended = LocalFuture()
        try:
            return await attempt(request.state)
        finally:
            request.ended = None
            ended.set_result(None)
