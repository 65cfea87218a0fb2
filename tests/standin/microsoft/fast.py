"""A clock that runs faster than the real one, for a process whose tests wait for minutes."""

from __future__ import annotations

import datetime
import queue
import selectors
import sys
import time
from types import ModuleType
from typing import Any


def hurry(factor: float) -> None:
    """Let the functions of `time`, and the selectors made afterwards, run `factor` times as fast."""
    for name in ("time", "monotonic"):
        setattr(time, name, _faster(getattr(time, name), factor))
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds / factor)

    class Selector(selectors.DefaultSelector):  # type: ignore[misc]
        def select(self, timeout: float | None = None) -> Any:
            return super().select(None if timeout is None else timeout / factor)

    selectors.DefaultSelector = Selector  # type: ignore[misc]

    class Signals(queue.SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            return super().get(block, None if timeout is None else timeout / factor)

    queue.SimpleQueue = Signals  # type: ignore[misc]
    # uvloop reads the clock of the system itself.
    sys.modules["uvloop"] = None  # type: ignore[assignment]


def _faster(read: Any, factor: float) -> Any:
    start = read()
    return lambda: start + (read() - start) * factor


class _Type(type(datetime.datetime)):  # type: ignore[misc]
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, _DATETIME)


_DATETIME = datetime.datetime


class Datetime(_DATETIME, metaclass=_Type):
    """A `datetime` whose present comes from `time.time`."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return _DATETIME.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)


class _DatetimeModule(ModuleType):
    datetime = Datetime

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


#: A replacement of the module `datetime`.
DATETIME = _DatetimeModule("datetime")
