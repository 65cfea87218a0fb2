"""What the tests of the embedded broker share: a clock set by hand, and short ways to send, receive and settle."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from azsession import Message, ReceivedMessage
from azsession.broker.base import AcceptRequest, Disposition, ReceiveRequest, Settlement, wait_for
from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker

T = TypeVar("T")

COMPLETE, ABANDON, DEFER, DEAD_LETTER = (
    Disposition.COMPLETE,
    Disposition.ABANDON,
    Disposition.DEFER,
    Disposition.DEAD_LETTER,
)


class HandClock(Clock):
    """A clock that stands still until `advance`."""

    def __init__(self, monotonic: float = 1000.0, now: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._offset = now - monotonic

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> float:
        return self._offset + self._monotonic

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds


def messages(*bodies: str, session: str = "s", **fields: Any) -> list[Message]:
    return [Message(body, session_id=session, **fields) for body in bodies]


def send(broker: EmbeddedBroker, *bodies: str, session: str = "s", queue: str = "q", **fields: Any) -> None:
    broker.send(queue, messages(*bodies, session=session, **fields)).result()


def receive(
    broker: EmbeddedBroker,
    lock: str = "A",
    count: int = 1,
    *,
    session: str = "s",
    queue: str = "q",
    timeout: float = 0,
    request_id: str = "",
) -> Sequence[ReceivedMessage]:
    request = ReceiveRequest(queue, session, lock, max_count=count, timeout=timeout, request_id=request_id)
    return wait_for(broker.receive(request)).messages


def accept(
    broker: EmbeddedBroker, lock: str = "A", session: str | None = None, *, timeout: float = 0, request_id: str = ""
) -> str | None:
    """Return the session that was accepted."""
    delivery = wait_for(broker.accept(AcceptRequest("q", session, lock, timeout=timeout, request_id=request_id)))
    return None if delivery is None else delivery.session_id


def settle(
    broker: EmbeddedBroker,
    disposition: Disposition,
    *received: ReceivedMessage,
    session: str = "s",
    reason: str | None = None,
    description: str | None = None,
) -> list[str | None]:
    """Return the codes of what could not be settled, `None` for what was."""
    return broker.settle(
        "q", session, [Settlement(one.receipt.handle, disposition, reason, description) for one in received]
    ).result()


def bodies(found: Sequence[Any]) -> list[str]:
    return [one.body.decode() for one in found]


def peek(broker: EmbeddedBroker, session: str = "s") -> list[str]:
    return bodies(broker.peek("q", session, 0, 1000).result())


def dead(broker: EmbeddedBroker) -> list[tuple[str, str | None]]:
    return [(one.body.decode(), one.dead_letter_reason) for one in broker.dead_letters("q", 0, 1000).result()]


def copy_data(path: Path) -> Path:
    """Copy the data file and its log as they are, as a kill would leave them; return the copy's path."""
    target = path.with_name(f"copy-{uuid.uuid4().hex}.db")
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            Path(f"{target}{suffix}").write_bytes(source.read_bytes())
    return target


class Background(Generic[T]):
    """A call in a thread of its own; `result` waits for it and gives what it returned or raised."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, seconds: float = 10.0) -> T:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the call does not return"
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
