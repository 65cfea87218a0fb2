"""A link by which a client sends messages to an entity. The broker stores them before they are accepted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ...amqp import BATCH_FORMAT, Transfer, Ulong
from ...errors import QueueError
from ...messages import Message
from ...protocol.routes import Operation
from .broker_calls import CONTEXT, when_done
from .conditions import INTERNAL, RefusedError, refusal_of
from .entities import stores_of
from .incoming import IncomingLink
from .messages import read_batch, read_message


class Sender(IncomingLink):
    """A client's sender on an entity."""

    operations: tuple[Operation, ...] = (Operation.SEND,)
    can_be_stolen = True
    _stores: Sequence[str] = ()

    async def prepare(self) -> None:
        self.max_message_size: int = self.channel.connection.services.max_message_size
        self._stores = await stores_of(self.channel.connection.services.broker, self.entity)

    def answer(self) -> Mapping[str, Any]:
        size = Ulong(self.max_message_size)
        return {**super().answer(), "properties": {"com.microsoft:max-message-batch-size": size}}

    def take(self, first: Transfer, payload: bytes, *, is_settled: bool) -> None:
        began = time.monotonic()
        messages: Sequence[Message] = []

        def answer(refusal: RefusedError | None) -> None:
            self.report(Operation.SEND, 201 if refusal is None else refusal.status, began, messages=messages)
            self.answered(first, len(payload), refusal, is_settled=is_settled)

        try:
            is_batch = first.message_format == BATCH_FORMAT
            messages = (
                read_batch(payload, self.max_message_size) if is_batch else [read_message(payload, self.max_message_size)]
            )
        except RefusedError as refusal:
            answer(refusal)
            return
        if not messages:
            answer(None)
            return

        # A message for several subscriptions is accepted when all have it.
        missing = len(self._stores)
        refused: RefusedError | None = None

        def stored(future: Future[None]) -> None:
            nonlocal missing, refused
            missing -= 1
            refused = refused or self._refusal(future)
            if missing == 0:
                answer(refused)

        for store in self._stores:
            when_done(self.channel.connection.services.broker.send(store, messages, context=CONTEXT), stored)

    def _refusal(self, future: Future[None]) -> RefusedError | None:
        error = future.exception()
        if error is None:
            return None
        if isinstance(error, QueueError):
            return refusal_of(error, self.entity)
        return RefusedError(INTERNAL, "The server had an internal error.", 500)
