"""Raises an exception before one line of the package during a call, as a signal handler would. `test_sweep` uses it."""

from __future__ import annotations

import concurrent.futures._base
import dis
import http.cookiejar
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import azsession
from azsession import InvalidReceiptError, Message, ReceivedMessage, ServiceBusProvider, SessionClient

from .conftest import InterruptError, is_in_finalizer

T = TypeVar("T")

#: The variable that makes a sweep interrupt every line. Without it, a sweep interrupts `SAMPLE` lines of each call.
FULL = "AZSESSION_FULL_SWEEP"
SAMPLE = 16
#: The modules of the standard library that take locks.
LIBRARY = tuple(str(module.__file__) for module in (threading, concurrent.futures._base, queue, http.cookiejar))
PACKAGE = str(Path(azsession.__file__).parent)

_names = itertools.count(1)


@cache
def _exits(code: CodeType) -> frozenset[int]:
    """Return where a function leaves a `with` block.

    CPython handles no signal between the end of the block and the call of ``__exit__``: it does so only at the start of a
    function, at a jump backwards, and after a call. So an exception here, which would leave a lock taken, cannot happen.
    """
    found = list(dis.get_instructions(code))
    exits: set[int] = set()
    for index in range(len(found) - 3):
        arguments = found[index : index + 3]
        if all(each.opname in ("LOAD_CONST", "DUP_TOP") and each.argval is None for each in arguments):
            exits.add(found[index].offset)
            if found[index - 1].opname in ("SWAP", "NOP", "ROT_TWO", "POP_BLOCK"):  # The block ends with `return`.
                exits.add(found[index - 1].offset)
    return frozenset(exits)


def _lines(found: list[dis.Instruction]) -> dict[int, int | None]:
    """Return the line of each instruction. Python 3.10 does not know it."""
    if sys.version_info < (3, 11):
        return {}
    return {each.offset: each.positions.lineno for each in found if each.positions is not None}


@cache
def _rounds(code: CodeType) -> frozenset[int]:
    """Return where the loops of a function that are written in one line begin their next round.

    Python 3.12 reports the line again there, and skips the ``with`` around the loop if a tracer raises an exception then. It
    does not skip it for the exception of a signal handler, which `BytecodeInterrupter` raises there.
    """
    found = list(dis.get_instructions(code))
    lines = _lines(found)
    jumps = [(each.offset, each.argval) for each in found if each.opname == "JUMP_BACKWARD"]
    return frozenset(place for jump in jumps if lines and lines.get(jump[0]) == lines.get(jump[1]) for place in jump)


@cache
def _signal_points(code: CodeType) -> frozenset[int]:
    """Return the instructions of a function before which CPython handles signals: those after a call, a start and a loop."""
    found = list(dis.get_instructions(code))
    after = ("CALL", "RESUME", "JUMP_BACKWARD")
    return frozenset(
        following.offset for one, following in itertools.pairwise(found) if one.opname.startswith(after)
    ) - _exits(code)


class Interrupter:
    """Counts the lines of the package that a call runs in this thread, and raises an exception before one of them.

    Args:
        at: The number of the line. 0: raise nothing.

    Attributes:
        lines: How many lines ran.
        where: The line that was interrupted.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self.lines = 0
        self.where: str | None = None

    def run(self, call: Callable[[], T]) -> T | None:
        """Return the result of a call, or `None` if it was interrupted."""
        sys.settrace(self._trace)
        try:
            return call()
        except InterruptError:
            assert self.where is not None
            return None
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        # Python ignores an exception in `__del__`.
        if not code.co_filename.startswith(PACKAGE) or code.co_name == "__del__":
            return None
        if event == "line" and frame.f_lasti not in _exits(code) | _rounds(code):
            self._pass(frame, f"{frame.f_code.co_filename[len(PACKAGE) :]}:{frame.f_lineno} {frame.f_code.co_name}")
        return self._trace

    def _pass(self, frame: FrameType, where: str) -> None:
        """Count a place. Raise the exception if it is the one to interrupt."""
        if self.lines + 1 == self._at and is_in_finalizer(frame):
            return  # The garbage collector calls it, and Python ignores an exception there. The next place counts.
        self.lines += 1
        if self.lines == self._at:
            self.where = where
            self._interrupt()

    def _interrupt(self) -> None:
        raise InterruptError(self.where)


class BytecodeInterrupter(Interrupter):
    """Raises the exception where CPython handles signals, also in the standard library. `lines` counts these places.

    A call of a Python function is no such place when it returns.
    """

    def run(self, call: Callable[[], T]) -> T | None:
        self._has_returned = False
        # Python 3.12 reports instructions only if some frame asked for them before `sys.settrace`.
        sys._getframe().f_trace_opcodes = True
        return super().run(call)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if code.co_name == "__del__" or (not code.co_filename.startswith(PACKAGE) and code.co_filename not in LIBRARY):
            return None
        frame.f_trace = self._trace  # Without it, Python 3.13 ignores the next line.
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and not self._has_returned and frame.f_lasti in _signal_points(code):
            self._pass(frame, f"{code.co_filename}:{frame.f_lineno} {code.co_name}, byte {frame.f_lasti}")
        self._has_returned = event == "return"
        return self._trace


class Handler(BytecodeInterrupter):
    """Calls a function where CPython handles signals, as a signal handler that returns.

    Args:
        at: The number of the place. 0: call nothing.
        handle: The function.
    """

    def __init__(self, at: int, handle: Callable[[], object]) -> None:
        super().__init__(at)
        self._handle = handle

    def _interrupt(self) -> None:
        sys.settrace(None)
        self._handle()


class Context:
    """A session of a queue, and one call that is interrupted.

    Args:
        provider: The provider.
        queue: A queue that only this sweep uses.
        at: The line of the call that is interrupted; 0 for none.
        kind: How the call is interrupted.
    """

    def __init__(self, provider: ServiceBusProvider, queue: str, at: int, kind: type[Interrupter] = Interrupter) -> None:
        self.provider = provider
        self.queue = queue
        self.session_id = f"s{next(_names)}"
        self.interrupter = kind(at)

    def send(self, *bodies: str) -> None:
        self.provider.send_messages(self.queue, [Message(body, session_id=self.session_id) for body in bodies])

    def open(self) -> SessionClient:
        return self.provider.create_session_client(self.queue, self.session_id)

    def interrupt(self, call: Callable[[], T]) -> T | None:
        """Run the call that is interrupted. Return its result, or `None`."""
        return self.interrupter.run(call)

    def rest(self, session: SessionClient) -> list[str]:
        """Receive and complete all messages."""
        found = []
        while (message := session.receive_message(timeout=0)) is not None:
            found.append(message.text())
            session.complete_message(message)
        return found

    def check_rest(self, session: SessionClient, *bodies: str) -> None:
        """Check that these messages are left, close the session, and check that it is free at once."""
        assert self.rest(session) == list(bodies), self.interrupter.where
        session.close()
        with self.open() as other:
            assert other.receive_message(timeout=0) is None, self.interrupter.where


def receive(context: Context) -> SessionClient:
    """Return a new session with three messages."""
    context.send("0", "1", "2")
    return context.open()


def first(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(timeout=20)
    assert message is not None
    return message


def again(settle: Callable[[], object]) -> None:
    """Settle once more. The first time can have succeeded before its interrupt."""
    try:
        settle()
    except InvalidReceiptError:
        return


def steps(lines: int) -> Iterator[int]:
    """Return the lines to interrupt: all, or some that are spread evenly."""
    if os.environ.get(FULL) or lines <= SAMPLE:
        return iter(range(1, lines + 1))
    return (1 + number * (lines - 1) // (SAMPLE - 1) for number in range(SAMPLE))
