"""Settling messages of a session that is held here, without a coroutine. `AzureBroker.settle` starts it.

Consumers settle every message, so the way of a settlement through the loop's thread is short: one job sends it, and Azure's
answer ends it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ProviderError, QueueError
from ...futures import Future
from ..calls import CallContext, Settlement
from .held_operations import HeldSessionOperations, settle_held
from .namespace import Namespace
from .operation import Operation, seconds_left
from .session.registry import SessionRegistry
from .transport.loop import Timer
from .transport.task import LocalFuture


class DirectSettler:
    """Settles messages. Any thread may use it.

    Args:
        namespace: The namespace.
        registry: The sessions that are held here.
        held: Settles messages of other sessions, and messages with a delay.
    """

    def __init__(self, namespace: Namespace, registry: SessionRegistry, held: HeldSessionOperations) -> None:
        self.namespace = namespace
        self.registry = registry
        self.held = held

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], context: CallContext
    ) -> Future[list[str | None]]:
        """Settle messages of one session; the result has an error code or `None` for each."""
        call = _Call(self, entity, session_id, settlements, context)
        try:
            self.namespace.loop.call(call.begin)
        except ProviderError as error:
            call.refuse(error)
        return call


class _Call(Future[list["str | None"]]):
    """One call of `DirectSettler.settle`."""

    def __init__(
        self,
        settler: DirectSettler,
        entity: str,
        session_id: str,
        settlements: Sequence[Settlement],
        context: CallContext,
    ) -> None:
        super().__init__()
        self._settler = settler
        self._entity = entity
        self._session_id = session_id
        self._settlements = settlements
        self._context = context
        self._limit = 0.0
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Send the settlements. From here on the call cannot be cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        loop = self._settler.namespace.loop
        session = self._settler.registry.held(self._entity, self._session_id)
        if session is None or any(settlement.delay for settlement in self._settlements):
            operation = Operation(self._context)
            settled = self._settler.held.settle(self._entity, self._session_id, self._settlements, operation)
            loop.start(settled, operation).add_done_callback(self._copy)
            return
        codes = settle_held(session, self._settlements)
        if codes.done():
            self._copy(codes)
            return
        self._limit = seconds_left(self._context, self._settler.namespace.timeout)
        self._timer = loop.later(self._limit, self._on_timeout)
        loop.suspended.add(self)
        codes.add_done_callback(self._copy)

    def _copy(self, codes: Future[list[str | None]] | LocalFuture[list[str | None]]) -> None:
        error = codes.exception()
        if error is not None:
            self._finish(error)
        elif not self.done():
            self._forget()
            self.set_result(codes.result())

    def _on_timeout(self) -> None:
        self._finish(self._settler.namespace.no_answer(self._limit))

    def _finish(self, error: BaseException) -> None:
        if not self.done():
            self._forget()
            self.set_exception(error)

    def _forget(self) -> None:
        self._settler.namespace.loop.suspended.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def refuse(self, error: QueueError) -> None:
        """End a call that was not begun."""
        if self.set_running_or_notify_cancel():
            self.set_exception(error)

    def end(self, error: QueueError) -> None:
        """End the call with an error: the loop ends."""
        self._finish(error)
