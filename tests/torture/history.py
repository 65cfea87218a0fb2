"""What the processes of a torture run did and saw: written by each to a file of its own, read together by the checker.

A file has one JSON object a line: the begin of an operation, its end, or something that happened. Instants are of the
monotonic clock, which all processes of a machine share. What was begun and has no end was cut off by the end of its process:
nobody knows its outcome.
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

#: Outcomes: it was confirmed; it surely did not take effect; it may have.
OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


class Recorder:
    """Writes the history of one process. Safe to use from many threads; each line is written whole, or not at all."""

    def __init__(self, path: Path, process: str) -> None:
        self.process = process
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # Guards the counter.

    def _write(self, **fields: Any) -> None:
        os.write(self._file, json.dumps({**fields, "t": time.monotonic()}, separators=(",", ":")).encode() + b"\n")

    def happened(self, what: str, **fields: Any) -> None:
        """Note an event: that a process was killed, that a lock was found to be lost."""
        self._write(event=what, process=self.process, **fields)

    @contextmanager
    def operation(self, name: str, holder: str = "", **about: Any) -> Iterator[dict[str, Any]]:
        """Note the begin of an operation, and its end: what the ``with`` block puts into the dict.

        Its ``outcome`` is `UNKNOWN` unless the block says otherwise.
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
    """One operation: who did what to which session, from when to when, and what came of it.

    Attributes:
        process: The process that did it.
        name: What was done: ``send``, ``accept``, ``receive``, ``complete`` and so on.
        holder: Which of the process's session clients.
        session: The session.
        begin: When it began.
        end: When it ended; for ever later where it never did.
        outcome: `OK`, `FAILED` or `UNKNOWN`.
        about: What else it was given.
        result: What else it gave.
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

    @property
    def may_have_acted(self) -> bool:
        return self.outcome != FAILED


@attrs.frozen
class Event:
    """Something that happened."""

    what: str
    process: str
    at: float
    fields: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class History:
    """All operations and events, by when they began."""

    operations: list[Operation]
    events: list[Event]


def read(paths: Iterable[Path]) -> History:
    """Return the history that the processes wrote. The last line of one that was killed may be cut."""
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
