"""The history of a torture run: each process records its operations in a file, and the checker reads all files.

Each line of a file is a JSON object: the begin of an operation, its end, or an event. Times are of the monotonic clock, which
all processes of a machine share. An operation without an end was cut off by the end of its process; its outcome is unknown.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

#: Outcomes of an operation: confirmed, certainly without effect, or possibly with effect.
OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


class Recorder:
    """Writes the history of one process. Thread-safe. Each line is written as a whole or not at all."""

    def __init__(self, path: Path, process: str) -> None:
        self.process = process
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # Guards the counter.

    def _write(self, **fields: Any) -> None:
        os.write(self._file, json.dumps({**fields, "t": time.monotonic()}, separators=(",", ":")).encode() + b"\n")

    def record_event(self, event: str, **fields: Any) -> None:
        """Record an event, for example that a process was killed or that a lock was lost."""
        self._write(event=event, process=self.process, **fields)

    @contextmanager
    def operation(self, name: str, holder: str = "", **about: Any) -> Iterator[dict[str, Any]]:
        """Record the begin and the end of an operation.

        The ``with`` block puts the result into the yielded dict. The ``outcome`` is `UNKNOWN` unless the block sets it.
        """
        with self._lock:
            number = next(self._numbers)
        self._write(begin=number, process=self.process, name=name, holder=holder, **about)
        result: dict[str, Any] = {"outcome": UNKNOWN}
        try:
            yield result
        finally:
            self._write(end=number, process=self.process, **result)


@attrs.frozen
class Operation:
    """One operation of a process.

    Attributes:
        process: The name of the process.
        name: The kind of operation, for example ``send``, ``accept``, ``receive`` or ``complete``.
        holder: The name of the session client, if it was used.
        session: The session.
        begin: When it began.
        end: When it ended; infinity if it did not end.
        outcome: `OK`, `FAILED` or `UNKNOWN`.
        about: Its other arguments.
        result: Its other results.
    """

    process: str
    name: str
    holder: str
    session: str
    begin: float
    end: float
    outcome: str
    about: dict[str, Any] = attrs.field(factory=dict)
    result: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return f"{self.holder or self.process} ({self.name} from {self.begin:.3f} to {self.end:.3f})"

    @property
    def fetches(self) -> bool:
        """Whether the operation may fetch messages that it does not return: an accept, or the settlement of a loop."""
        return self.name != "receive" and "prefetch" in self.about and self.may_have_acted

    @property
    def may_have_acted(self) -> bool:
        return self.outcome != FAILED


@attrs.frozen
class Event:
    """An event that is not an operation, for example a kill."""

    name: str
    process: str
    at: float
    fields: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class History:
    """All operations and events, ordered by their begin."""

    operations: list[Operation]
    events: list[Event]


def read(paths: Iterable[Path]) -> History:
    """Return the history in these files. The last line of a killed process may be incomplete, and is ignored then."""
    begun: dict[tuple[str, int], dict[str, Any]] = {}
    operations: list[Operation] = []
    events: list[Event] = []
    for path in paths:
        for line in path.read_bytes().split(b"\n"):
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            at, process = fields.pop("t"), fields.pop("process")
            if "event" in fields:
                events.append(Event(fields.pop("event"), process, at, fields))
            elif "begin" in fields:
                begun[process, fields.pop("begin")] = {**fields, "at": at}
            else:
                operations.append(_operation(process, begun.pop((process, fields.pop("end"))), at, fields))
    for (process, _), fields in begun.items():
        operations.append(_operation(process, fields, float("inf"), {"outcome": UNKNOWN}))
    return History(sorted(operations, key=lambda one: one.begin), sorted(events, key=lambda one: one.at))


def _operation(process: str, about: dict[str, Any], end: float, result: dict[str, Any]) -> Operation:
    about, result = dict(about), dict(result)
    name, holder, session, begin = (about.pop(key, "") for key in ("name", "holder", "session", "at"))
    session = result.pop("session", session)
    return Operation(process, name, holder, session, begin, end, result.pop("outcome"), about, result)
