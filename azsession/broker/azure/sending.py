"""`MessageSender`: sends messages to Azure, each request in as few transfers as possible.

Azure accepts a transfer as a whole or not at all. A request needs several transfers if it is larger than a batch may be, or
if a partitioned entity gets messages of several sessions. The broker's operations call it in the loop's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import zip_longest

import attrs

from ...amqp import Condition
from ...errors import ConnectionFailedError, ProviderError, QueueError, revised
from ...protocol.error_codes import OUTCOME_UNKNOWN, SERVER_BUSY
from .authorized_connection import EntitySender
from .batches import MAX_BATCH_SIZE, Chunk, EncodedMessages, divide, needs_sessions_apart
from .error_mapping import LOST_LINK, TIMEOUT, error_of
from .namespace import Namespace
from .operation import Operation
from .recent_requests import RecentRequests
from .transport.task import LocalFuture

#: Entities that are remembered as partitioned, at most.
MAX_PARTITIONED = 10_000
#: Conditions of ended links that do not say whether Azure accepted the messages on their way.
_UNKNOWN_OUTCOME = LOST_LINK | {
    TIMEOUT,
    "amqp:internal-error",
    "com.microsoft:container-close",
    "com.microsoft:operation-cancelled",
}

#: The result of a transfer: its state and its error.
_Result = tuple["str | None", "Condition | None"]


@attrs.define(eq=False)
class _Request:
    """The transfers of one request.

    Attributes:
        groups: The transfers; those of one group are sent one after another.
        results: Their results, and those that are on their way. A transfer that surely failed has none.
    """

    groups: list[list[Chunk]]
    results: dict[Chunk, LocalFuture[_Result]] = attrs.field(factory=dict)

    def accepted(self) -> int:
        """Return how many messages Azure has accepted."""
        return sum(len(chunk) for chunk, result in self.results.items() if result.done() and result.result()[0] == "accepted")


class MessageSender:
    """Sends messages.

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._requests: RecentRequests[_Request] = RecentRequests()
        #: Entities that refused a batch of several sessions.
        self._partitioned: OrderedDict[str, None] = OrderedDict()

    async def send(self, entity: str, encoded: EncodedMessages, request_id: str, operation: Operation) -> None:
        """Send messages. Returns when Azure has confirmed them.

        A request is remembered for 10 minutes: the same request again sends only messages that surely were not accepted.

        Args:
            entity: The queue or topic.
            encoded: The messages.
            request_id: The same for all attempts of one request; ``""`` for none.
            operation: The call.

        Raises:
            MessageTooLargeError: A message is larger than the link takes. None was sent.
            ConnectionFailedError: A confirmation was lost: Azure may have accepted the messages.
            QueueError: Azure did not accept the messages. `accepted` says how many it did accept, where a request needs
                several transfers.
        """
        sender = await self._namespace.sender(entity, operation)
        encoded.check_sizes(sender.max_message_size)
        operation.commit()
        try:
            await self._send(entity, sender, encoded, request_id, operation)
        except ConnectionFailedError as error:
            raise revised(error, code=OUTCOME_UNKNOWN) from error.__cause__

    async def _send(
        self, entity: str, sender: EntitySender, encoded: EncodedMessages, request_id: str, operation: Operation
    ) -> None:
        known = self._requests.unfinished(request_id) if request_id else None
        request = known or self._plan(entity, sender, encoded)
        if request_id and known is None:
            if self._requests.is_done(request_id):
                return
            self._requests.add(request_id, request)
        refusal = await self._send_groups(entity, sender, encoded, request, operation)
        if needs_sessions_apart(refusal) and not request.results and len(set(encoded.session_ids)) > 1:
            self._partitioned[entity] = None
            while len(self._partitioned) > MAX_PARTITIONED:
                self._partitioned.popitem(last=False)
            request.groups = self._plan(entity, sender, encoded).groups
            refusal = await self._send_groups(entity, sender, encoded, request, operation)
        if refusal is not None:
            self._raise(error_of(refusal, entity=entity), request, len(encoded))
        if request_id:
            self._requests.finish(request_id)

    def _plan(self, entity: str, sender: EntitySender, encoded: EncodedMessages) -> _Request:
        limit = sender.max_batch_size or MAX_BATCH_SIZE
        if sender.max_message_size is not None:
            limit = min(limit, sender.max_message_size)
        return _Request(divide(encoded, limit, per_session=entity in self._partitioned))

    async def _send_groups(
        self, entity: str, sender: EntitySender, encoded: EncodedMessages, request: _Request, operation: Operation
    ) -> Condition | None:
        """Send what was not sent; return the refusal of the first transfer that Azure refused."""
        for turn in zip_longest(*request.groups):
            chunks = [chunk for chunk in turn if chunk is not None]
            results = [request.results.get(chunk) or self._transfer(sender, encoded, chunk, request) for chunk in chunks]
            for result in results:
                await self._namespace.wait(result, operation)
            for state, error in [result.result() for result in results]:
                if state != "accepted":
                    return self._refusal(entity, state, error)
        return None

    def _transfer(
        self, sender: EntitySender, encoded: EncodedMessages, chunk: Chunk, request: _Request
    ) -> LocalFuture[_Result]:
        result: LocalFuture[_Result] = LocalFuture()

        def outcome(number: int, state: str | None, error: Condition | None) -> None:
            surely_failed = state not in ("accepted", None) or (state is None and not _is_unknown(error))
            if surely_failed:
                # The next attempt may send these messages.
                request.results.pop(chunk, None)
            result.set_result((state, error))

        payload, message_format = encoded.payload(chunk)
        # A link that has ended answers at once.
        request.results[chunk] = result
        sender.send(payload, outcome, message_format)
        return result

    def _refusal(self, entity: str, state: str | None, error: Condition | None) -> Condition:
        """Return why Azure did not accept a transfer.

        Raises:
            ConnectionFailedError: Azure may have accepted the messages.
            ProviderError: Azure gave no reason.
        """
        if state is None and _is_unknown(error):
            raise ConnectionFailedError(
                f"{entity}: the link was lost before Azure confirmed the messages, which may have been accepted",
                maybe_delivered=True,
            )
        if error is None:
            raise ProviderError(
                f"{entity}: Azure did not accept the messages", code=SERVER_BUSY, status=503, is_transient=True
            )
        return error

    def _raise(self, failure: QueueError, request: _Request, count: int) -> None:
        accepted = request.accepted()
        if accepted:
            text = f"{failure} ({accepted} of these {count} messages were accepted)"
            raise revised(failure, text, accepted=accepted)
        raise failure


def _is_unknown(error: Condition | None) -> bool:
    """Return whether the end of a link leaves open whether Azure accepted the messages on their way."""
    return error is None or error.condition in _UNKNOWN_OUTCOME
