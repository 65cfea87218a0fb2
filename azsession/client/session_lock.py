"""The lock of one session, as its holder knows it, and the receipts of the messages that were received under it.

`Holder` keeps one `SessionLock` for each session. It contains everything that the threads which use one session share.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from enum import Enum

import attrs

from ..errors import InvalidReceiptError, SessionNotFoundError
from ..messages import ReceiptHandle, ReceivedMessage
from ..protocol.error_codes import SESSION_LOCK_LOST
from ..protocol.routes import route_of
from .background import BackgroundSettlements
from .fetch_turns import FetchTurns
from .ids import new_id
from .in_flight import InFlight
from .lock_origin import LockOrigin
from .lock_term import LockExpiredError, Term
from .redacted import Redacted
from .running_receive import Receive


class Stage(Enum):
    """The stages of a lock."""

    #: No request has asked for the lock.
    NEW = "new"
    #: A request asked for the lock. The server may have granted it.
    REQUESTED = "requested"
    #: The server has granted the lock at least once.
    HELD = "held"
    #: The lock belongs to the process that this process was forked from.
    INHERITED = "inherited"


class SessionLock:
    """The state of one session's lock. Safe to use from many threads.

    Args:
        name: The session, as error messages and log messages name it.
        session_timeout: Seconds that the lock is expected to last if the server does not say.
    """

    def __init__(self, name: str, session_timeout: float) -> None:
        self.name = name
        # Guards the fields below. A single read of one of the first six does not need it. Never held during a request. A
        # signal handler may use the lock while its thread holds the guard.
        self._guard = threading.RLock()
        self._lock_id = new_id()
        self._route = route_of(self._lock_id)
        self._stage = Stage.NEW
        self._closed = False
        self._error: SessionNotFoundError | None = None
        self._term = Term.until(time.monotonic() + session_timeout, session_timeout)
        self._refreshed_by = 0.0  # When the request was sent whose answer gave `_term`.
        self._receipts: dict[str, ReceiptHandle] = {}
        self._ahead: deque[ReceivedMessage] = deque()
        #: The request ids of receives without an answer, and the receive that uses each.
        self._unanswered: dict[str, Receive] = {}
        #: The receive that runs in each thread. The caller's frame keeps it alive.
        self._receives: dict[int, weakref.ref[Receive]] = {}
        #: `True` after the lock was handed over: another process may hold it, too.
        self.is_shared: bool = False
        self.fetches: FetchTurns = FetchTurns()
        #: The messages that were handed out last, until a settlement shows that the caller has got them.
        self.in_flight: InFlight | None = None
        #: The settlements that a `SessionProcessor` sends from other threads, if there are any.
        self.background: BackgroundSettlements | None = None
        self._origin = LockOrigin()

    @property
    def lock_id(self) -> str:
        """The id under which the server knows the holder."""
        return self._lock_id

    @property
    def route(self) -> str:
        """The part of the lock id by which a load balancer finds the holder's gateway."""
        return self._route

    @property
    def stage(self) -> Stage:
        """The stage of the lock."""
        return self._stage

    @property
    def closed(self) -> bool:
        """Whether the session was closed."""
        return self._closed

    @property
    def error(self) -> SessionNotFoundError | None:
        """Why the lock is lost, or `None` while it is not known to be lost."""
        return self._error

    @property
    def term(self) -> Term:
        """How long the lock lasts. The server never ends it earlier."""
        return self._term

    @property
    def is_live(self) -> bool:
        """Whether the lock was granted to this process, and is neither closed nor known to be lost."""
        return self._stage is Stage.HELD and not self._closed and self._error is None

    def seconds_left(self) -> float:
        """Return the seconds until the lock ends."""
        return self._term.deadline - time.monotonic()

    def check(self, *, settling: bool = False, closed: bool = False) -> None:
        """Check that a call can succeed. A forked child may settle (`settling`), but nothing else.

        Args:
            settling: The call settles messages.
            closed: The session is about to be closed, so that no call begins.

        Raises:
            SessionNotFoundError: The session was closed, its lock is lost, or it belongs to another process.
            LockExpiredError: The lock expired, and `lose` was not called yet.
        """
        if self._closed or closed:
            raise SessionNotFoundError(f"{self.name} is closed", code=SESSION_LOCK_LOST)
        if self._error is not None:
            raise SessionNotFoundError(str(self._error), code=self._error.code) from self._error
        self._origin.check(self.name, settling=settling)
        if self._stage is Stage.INHERITED:
            if settling:
                return
            raise SessionNotFoundError(
                f"{self.name} belongs to the parent process that opened it: open another session in this process, or settle "
                "the messages that the parent received",
                code=SESSION_LOCK_LOST,
            )
        if self._stage is Stage.HELD and self._term.deadline <= time.monotonic():
            raise LockExpiredError(SessionNotFoundError(f"the lock of {self.name} expired", code=SESSION_LOCK_LOST))

    # Changes of the lock

    def request(self) -> str:
        """Note that a request is about to ask for the lock. Return the lock id."""
        if self._stage is Stage.NEW:
            with self._guard:
                if self._stage is Stage.NEW:
                    self._stage = Stage.REQUESTED
        return self._lock_id

    def take_over(self, lock_id: str) -> None:
        """Note the lock id under which the provider accepted the session."""
        self._lock_id, self._route = lock_id, route_of(lock_id)
        self.request()

    def resume(self, lock_id: str, session: tuple[str, str], lasts: float) -> None:
        """Note that another process handed over the lock of a queue's session. It is to be renewed at once."""
        with self._guard:
            self._lock_id, self._route, self._stage = lock_id, route_of(lock_id), Stage.HELD
            self._origin.handed_over = session
            self.is_shared = True
            self._term = attrs.evolve(Term.until(time.monotonic() + lasts, lasts), renew_at=time.monotonic())

    def refresh(self, sent: float, lasts: float, *, waited: float = 0.0) -> bool:
        """Note that the server granted or renewed the lock. Return whether it must be renewed earlier than before.

        Args:
            sent: When the request was sent, on the monotonic clock. The server did not grant the lock earlier.
            lasts: Seconds that the lock lasts.
            waited: Seconds that the server held the request before it granted the lock.
        """
        with self._guard:
            first = self._stage in (Stage.NEW, Stage.REQUESTED)
            renew_at = self._term.renew_at
            # Of two answers, the one to the request that was sent later counts, also if the lock ends earlier by it.
            if first or sent >= self._refreshed_by:
                self._refreshed_by = sent
                self._term = Term.until(sent + waited + lasts, lasts)
            self._stage = Stage.HELD if first else self._stage
            return self._term.renew_at < renew_at

    def lose(self, error: SessionNotFoundError) -> bool:
        """Note that the lock is lost, and forget its messages. Return `False` if the lock had ended before."""
        with self._guard:
            if self._closed or self._error is not None or self._stage is Stage.INHERITED:
                return False
            self._error = error
            self._receipts.clear()
            self._ahead.clear()
            return True

    def close(self) -> None:
        """Note that the session is closed."""
        with self._guard:
            self._closed = True
            self._receipts.clear()
            self._ahead.clear()

    def abandon(self) -> None:
        """Note that the session is closed, from a finalizer.

        It takes no guard: the garbage collector can run the finalizer in a thread that holds the guard.
        """
        self._closed = True

    def after_fork(self) -> None:
        """Leave the lock to the parent process. A lock that was never requested becomes the child's own, under a new id."""
        self._guard = threading.RLock()
        self._ahead.clear()
        self._unanswered.clear()
        self._receives.clear()
        self.fetches = FetchTurns()
        if self._stage is Stage.NEW:
            self._lock_id = new_id()
            self._route = route_of(self._lock_id)
        else:
            self._stage = Stage.INHERITED

    # Receives whose answer never came

    def begin_receive(self, *, is_prompt: bool = False) -> Receive:
        """Note that this thread begins a receive. The caller keeps the result until the receive ends.

        Args:
            is_prompt: The receive does not wait for messages.
        """
        receive = Receive(threading.get_ident(), is_prompt=is_prompt)
        self._receives[receive.thread] = weakref.ref(receive)
        return receive

    def undo_receive(self, receive: Receive, returned: Sequence[ReceivedMessage] = ()) -> None:
        """Note that a receive was interrupted or failed. The messages that it did not return come first in the next one.

        Args:
            receive: The receive. `arrived` has its messages.
            returned: Messages that it was about to return.
        """
        receive.has_ended = True
        self.fetches.end(receive.turn)  # An interrupt can have come just before its end.
        with self._guard:
            for request_id, messages in [*receive.arrived, ("", returned)]:
                self._put_back(request_id, messages)

    def _put_back(self, request_id: str, messages: Sequence[ReceivedMessage]) -> None:
        if any(map(self._is_registered, messages)):
            self._unanswered.pop(request_id, None)
            self.put_ahead(messages)

    def request_id(self) -> tuple[str, bool]:
        """Return the request id for a receive, and whether an earlier receive without an answer used the same id.

        The server may have given messages to that earlier receive. Under the same id it gives the same messages again, before
        later ones. The id is kept until `register`, so that an interrupt at any place cannot lose it.
        """
        own = self._running() or Receive(threading.get_ident())
        with self._guard:
            # A thread runs one receive at a time, so that its earlier one has ended.
            ended = (known for known, owner in self._unanswered.items() if owner.has_ended or owner.thread == own.thread)
            earlier = next(ended, None)
            request_id = earlier or new_id()
            self._unanswered[request_id] = own
            return request_id, earlier is not None

    def forget_request(self, request_id: str) -> None:
        """Forget a request id: the server does not use it."""
        with self._guard:
            self._unanswered.pop(request_id, None)

    def _running(self) -> Receive | None:
        """Return the receive that runs in this thread."""
        known = self._receives.get(threading.get_ident())
        return None if known is None else known()

    def fetch_after(self, token: str) -> int:
        """Return how many messages this thread's `messages` loop fetches when it goes on after the settlement of a message.

        It is 0 if the loop did not yield this message last, or if the message is not the only unsettled one.
        """
        own = self._running()
        if own is None or own.yielded != token or own.has_ended:
            return 0
        with self._guard:
            is_last = len(self._receipts) == 1 and token in self._receipts and not self.is_shared
            return own.next_count if is_last and self.is_live else 0

    # Receipts

    def register(self, messages: Sequence[ReceivedMessage], request_id: str = "") -> None:
        """Note messages that were received, so that they can be settled.

        Args:
            messages: The messages.
            request_id: The request id of the receive that they answer.
        """
        own = self._running()
        with self._guard:
            if self._closed or self._error is not None:
                return
            if own is not None:
                own.arrived.append((request_id, messages))
            # One step: after an interrupt, the receipts of all messages are known or none.
            self._receipts.update({message.receipt.handle: message.receipt for message in messages})
            self._unanswered.pop(request_id, None)

    def adopt(self, receipt: ReceiptHandle) -> None:
        """Note the receipt of a message that another process received."""
        with self._guard:
            self._receipts[receipt.handle] = receipt
            self._route = receipt.route or self._route
            self._origin.settles_only = True

    def resolve(self, receipt: ReceivedMessage | ReceiptHandle | str) -> str:
        """Return the lock token of a receipt.

        Raises:
            InvalidReceiptError: The message was not received from this session, or is already settled.
        """
        if isinstance(receipt, ReceivedMessage):
            receipt = receipt.receipt
        if isinstance(receipt, str):
            receipt = ReceiptHandle.parse(receipt)
        if not isinstance(receipt, ReceiptHandle):
            raise InvalidReceiptError(
                f"a receipt must be a ReceivedMessage, a ReceiptHandle, or the text of one, not {type(receipt).__name__}"
            )
        known = self._receipts.get(receipt.handle) or (receipt if self._origin.may_settle(receipt) else None)
        if known is None or (receipt.session_id, receipt.queue_name) not in (
            ("", ""),
            (known.session_id, known.queue_name),
        ):
            raise InvalidReceiptError(f"the receipt is not from {self.name}, or its message is already settled")
        if self.in_flight is not None and self.in_flight.token == receipt.handle:
            self.in_flight = None
        return Redacted(receipt.handle)

    def forget(self, token: str) -> None:
        """Forget the lock token of a message that is settled or gone."""
        with self._guard:
            self._receipts.pop(token, None)

    def tokens(self) -> list[str]:
        """Return the lock tokens of all unsettled messages, in the order in which they were received."""
        with self._guard:
            return [Redacted(token) for token in self._receipts]

    # Messages that were fetched ahead

    def put_ahead(self, messages: Sequence[ReceivedMessage]) -> None:
        """Keep messages that were received, but not yet handed out, in the order of their sequence numbers."""
        with self._guard:
            if not self._closed and self._error is None:
                # A message can be settled while another thread has it here.
                each = {message.receipt.handle: message for message in (*self._ahead, *messages)}
                kept = filter(self._is_registered, each.values())
                # Only a plain server leaves the numbers out.
                self._ahead = deque(sorted(kept, key=lambda message: message.sequence_number or 0))

    def _is_registered(self, message: ReceivedMessage) -> bool:
        return message.receipt.handle in self._receipts

    def take_ahead(self, count: int) -> tuple[list[ReceivedMessage], bool]:
        """Return up to `count` of the messages that were fetched ahead, and whether other messages are in use.

        A message is in use if it was handed out and is not settled. Another process that holds the same lock may use some.
        Messages that are settled in the background are not in use any more.
        """
        settling = 0 if self.background is None else self.background.unconfirmed
        own = self._running()
        with self._guard:
            taken = [self._ahead[number] for number in range(min(count, len(self._ahead)))]
            if own is not None:
                own.arrived.append(("", taken))
            for _ in taken:
                self._ahead.popleft()
            return taken, self.is_shared or len(self._receipts) - len(self._ahead) - settling > len(taken)

    def take_all_ahead(self, into: list[ReceivedMessage]) -> None:
        """Move all messages that were fetched ahead to a list. After an interrupt, they can be in both places."""
        with self._guard:
            into.extend(self._ahead)
            self._ahead.clear()

    @property
    def ahead_count(self) -> int:
        """How many messages were fetched ahead and not handed out."""
        return len(self._ahead)

    @property
    def first_ahead(self) -> ReceivedMessage | None:
        """The first message that was fetched ahead."""
        with self._guard:
            return self._ahead[0] if self._ahead else None
