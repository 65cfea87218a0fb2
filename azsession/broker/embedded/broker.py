"""`EmbeddedBroker`: the `Broker` interface on one SQLite file, or in memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from ...errors import ConfigurationError, ProviderError, QueueError
from ...messages import Message, PeekedMessage, ReceivedMessage, SessionInfo
from ...protocol.error_codes import CONFLICT
from ...queues import QueueInfo, QueueSettings, QueueStatistics
from ...validation import as_list, check_flag, check_queue_name, shown
from ..base import Broker
from ..calls import BLOCKING, AcceptRequest, Backup, CallContext, Delivery, ReceiveRequest, Settled, Settlement
from ..clock import Clock
from .backup import Backups, remove_unfinished
from .browsing import Browsing
from .core import Core
from .jobs import Transaction, Unfinished
from .overview import Overview
from .purging import Purging
from .receiving import Receiving
from .sending import Sending
from .settling import Settling


def _file(path: str | Path | None) -> Path | None:
    """Return the data file. A path that the system cannot have, for example with a null character, is an error."""
    if path is None:
        return None
    try:
        file = Path(path)
        text = os.fsencode(file)
    except (TypeError, UnicodeEncodeError):
        wrong = f"the data file must be a str or a Path that the system can encode, not {shown(path)}"
        raise ConfigurationError(wrong) from None
    if not file.name or b"\0" in text:
        raise ConfigurationError(f"the data file must be the path of a file, not {shown(path)}")
    return file


class EmbeddedBroker(Broker):
    """A broker inside the current process. It keeps its messages in one SQLite file, or in memory.

    When `send` or `settle` returns, its changes are on disk (WAL mode, ``synchronous=FULL``). Session locks live in memory: a
    restart ends all of them. Safe to use from many threads. A forked child cannot use it.

    Args:
        path: The data file. It is created if it does not exist. `None` keeps everything in memory.
        queues: Names of queues to create if they do not exist.
        auto_create: Create a queue when the first message is sent to it. Reading creates none.
        clock: The source of time.

    Raises:
        ConfigurationError: The file cannot be opened: another process has it open, it is damaged, or it belongs to a newer
            azsession.
        ValidationError: A queue name is invalid.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        queues: Iterable[str] = (),
        auto_create: bool = False,
        clock: Clock | None = None,
    ) -> None:
        names = [check_queue_name(name) for name in as_list(queues, "queues")]
        check_flag(auto_create, "auto_create")
        file = _file(path)
        self._core = Core(file, auto_create=auto_create, clock=clock or Clock())
        if file is not None:
            remove_unfinished(file)
        self._backups = Backups(self._core, file)
        self._receiving = Receiving(self._core)
        self._settling = Settling(self._core)
        self._sending = Sending(self._core)
        self._browsing = Browsing(self._core)
        self._overview = Overview(self._core)
        self._purging = Purging(self._core)
        try:
            for name in itertools.filterfalse(self._core.queues.__contains__, names):
                self.create_queue(name, QueueSettings()).result()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # The holder of a session

    def receive(self, request: ReceiveRequest, *, context: CallContext = BLOCKING) -> Future[Delivery]:
        return self._receiving.receive(request, context)

    def accept(self, request: AcceptRequest, *, context: CallContext = BLOCKING) -> Future[Delivery | None]:
        return self._receiving.accept(request, context)

    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[ReceivedMessage]]:
        return self._receiving.receive_deferred(entity, session_id, lock_id, sequence_numbers, context)

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = BLOCKING
    ) -> Future[list[str | None]]:
        return self._settling.settle(entity, session_id, settlements, context)

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING) -> Future[float]:
        return self._settling.renew(entity, session_id, lock_id, context)

    def settle_and_receive(
        self, settlements: Sequence[Settlement], request: ReceiveRequest, *, context: CallContext = BLOCKING
    ) -> Future[Settled]:
        return self._receiving.settle_and_receive(settlements, request, context)

    def release(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        settlements: Sequence[Settlement] = (),
        *,
        context: CallContext = BLOCKING,
    ) -> Future[Sequence[str | None]]:
        return self._settling.release(entity, session_id, lock_id, settlements, context)

    def give_back(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        lock_tokens: Sequence[str],
        *,
        context: CallContext = BLOCKING,
    ) -> Future[None]:
        return self._settling.give_back(entity, session_id, lock_id, lock_tokens, context)

    def undo_accept(self, request: AcceptRequest, delivery: Delivery, *, context: CallContext = BLOCKING) -> Future[None]:
        return self._settling.undo_accept(request, delivery, context)

    def get_state(
        self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING
    ) -> Future[bytes | None]:
        return self._settling.get_state(entity, session_id, lock_id, context)

    def set_state(
        self, entity: str, session_id: str, lock_id: str, state: bytes | None, *, context: CallContext = BLOCKING
    ) -> Future[None]:
        return self._settling.set_state(entity, session_id, lock_id, state, context)

    def dead_letter_session(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        reason: str,
        description: str | None,
        request_id: str = "",
        *,
        context: CallContext = BLOCKING,
    ) -> Future[int]:
        return self._settling.dead_letter_session(entity, session_id, lock_id, reason, description, request_id, context)

    # Messages

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[None]:
        return self._sending.send(entity, messages, request_id, context)

    def peek(
        self,
        entity: str,
        session_id: str | None,
        from_sequence_number: int,
        max_count: int,
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[PeekedMessage]]:
        if session_id is None:
            return self._browsing.peek_queue(entity, from_sequence_number, max_count, context)
        return self._browsing.peek(entity, session_id, from_sequence_number, max_count, context)

    def list_sessions(
        self, entity: str, after: str | None, max_count: int, since: float | None = None, *, context: CallContext = BLOCKING
    ) -> Future[list[SessionInfo]]:
        return self._overview.list_sessions(entity, after, max_count, since, context)

    def schedule(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[list[int]]:
        return self._sending.schedule(entity, messages, request_id, context)

    def cancel_scheduled(
        self, entity: str, sequence_numbers: Sequence[int], *, context: CallContext = BLOCKING
    ) -> Future[None]:
        return self._sending.cancel_scheduled(entity, sequence_numbers, context)

    def purge(
        self, entity: str, session_id: str | None, request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[int]:
        return self._purging.purge(entity, session_id, request_id, context)

    def dead_letters(
        self,
        entity: str,
        from_sequence_number: int,
        max_count: int,
        session_id: str | None = None,
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[PeekedMessage]]:
        return self._browsing.dead_letters(entity, from_sequence_number, max_count, session_id, context)

    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = BLOCKING) -> Future[None]:
        return self._sending.resubmit(entity, sequence_number, context)

    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = BLOCKING) -> Future[None]:
        return self._sending.delete_dead_letter(entity, sequence_number, context)

    # Queues

    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = BLOCKING) -> Future[bool]:
        def job(tx: Transaction) -> bool:
            queue = self._core.queues.get(entity)
            if queue is None or not queue.is_stored:
                self._core.creation.add(tx, entity, settings)
                return True
            if queue.settings != settings:
                raise ProviderError(
                    f"the queue {entity!r} exists with other settings; delete it first to create it again",
                    code=CONFLICT,
                    status=409,
                )
            return False

        return self._core.submit(job, context, durable=True)

    def get_queue(self, entity: str, *, context: CallContext = BLOCKING) -> Future[QueueInfo]:
        def job(tx: Transaction) -> QueueInfo | Unfinished:
            queue = self._core.creation.existing(entity)
            if self._core.due.continue_dead_lettering(tx, queue):
                return Unfinished.CONTINUE
            active, dead = self._core.store.counts(queue.id)
            return QueueInfo(queue.name, queue.settings, active, dead)

        return self._core.submit(job, context)

    def queue_statistics(self, entity: str, *, context: CallContext = BLOCKING) -> Future[QueueStatistics]:
        return self._overview.statistics(entity, context)

    def dead_letter_counts(self) -> Mapping[str, int]:
        return dict(self._core.due.dead_letter_counts)

    def list_queues(self, *, context: CallContext = BLOCKING) -> Future[list[QueueInfo]]:
        def job(tx: Transaction) -> list[QueueInfo]:
            queues = sorted(self._core.queues.items())
            return [QueueInfo(name, queue.settings) for name, queue in queues if queue.is_stored]

        return self._core.submit(job, context)

    def delete_queue(self, entity: str, *, context: CallContext = BLOCKING) -> Future[None]:
        def job(tx: Transaction) -> None:
            self._core.due.delete_queue(tx, self._core.creation.existing(entity))

        return self._core.submit(job, context, durable=True)

    # Operation

    def backup(self, *, context: CallContext = BLOCKING) -> Future[Backup]:
        try:
            return self._backups.start()
        except QueueError as error:
            failed: Future[Backup] = Future()
            failed.set_exception(error)
            return failed

    @property
    def durable_commits(self) -> int:
        """How often changes were put on disk since the start. Calls that come at the same time share a commit."""
        return self._core.commits.durable_commits

    # Lifecycle

    def check_ready(self, *, context: CallContext = BLOCKING) -> Future[None]:
        return self._core.submit(lambda tx: self._core.store.check_writable(), context, durable=True)

    def stop_waiting(self) -> None:
        self._core.stop_waiting()

    def close(self) -> None:
        self._core.close()
