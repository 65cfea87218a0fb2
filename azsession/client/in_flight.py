"""`InFlight`: messages on their way from this package to the code that called it. `receiving` notes each receive.

CPython handles signals when it returns from a C function, for example `next` or a `functools.partial`, and drops the result
if the handler raises an exception. The code of this package has ended then, and the caller has no message. So the session
gets the messages back for its next receive.

The messages were dropped on their way if their first object ends at the instruction that called this package, and if an
exception has passed there since. Both are needed: in ``list(map(handle, session.messages()))`` each message ends at this
instruction, too, but `handle` has got it.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from operator import attrgetter
from types import FrameType, TracebackType
from typing import Protocol

import attrs

from ..messages import ReceivedMessage

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_NAMES = tuple(field.name for field in attrs.fields(ReceivedMessage))
_values_of = attrgetter(*_NAMES)


class Keeper(Protocol):
    """Keeps the messages that were handed out last, and gets those back that were dropped. `SessionLock` is one."""

    in_flight: InFlight | None

    def put_ahead(self, messages: Sequence[ReceivedMessage], /) -> None: ...


class InFlight:
    """Messages that were handed out. `hand_out` makes one.

    Args:
        messages: One or more messages, in order.
        caller: The frame that called the receiving function.
        keeper: Keeps this object.

    Attributes:
        token: The lock token of the first message.
        values: The fields of the first message. The object itself would not end if this object kept it.
        others: The messages behind it.
        places: The frames that the messages pass, by id, and the instruction of each that waits for them.
        watches: Call `_ended`. Python ignores an exception there: a second signal can end the first call, so there are two.
    """

    __slots__ = ("others", "places", "token", "values", "watches")

    def __init__(self, messages: Sequence[ReceivedMessage], caller: FrameType, keeper: Keeper) -> None:
        first = messages[0]
        self.token: str = first.receipt.handle
        self.values: tuple[object, ...] = _values_of(first)
        self.others: Sequence[ReceivedMessage] = messages[1:]
        self.places: dict[int, int] = _places(caller)
        self.watches: tuple[_Watch, _Watch] = (_Watch(first, _ended), _Watch(first, _ended))
        self.watches[0].keeper = self.watches[1].keeper = weakref.ref(keeper)


class _Watch(weakref.ref[ReceivedMessage]):
    """Calls `_ended` when a message ends, as long as its `InFlight` is kept."""

    __slots__ = ("keeper",)

    keeper: weakref.ref[Keeper]


def hand_out(messages: Sequence[ReceivedMessage], caller: FrameType, keeper: Keeper) -> None:
    """Note messages that the receiving function returns next. Other threads than the main thread handle no signals."""
    if messages and threading.get_ident() == threading.main_thread().ident:
        keeper.in_flight = InFlight(messages, caller, keeper)


def _places(frame: FrameType | None) -> dict[int, int]:
    """Return the frames of this package that wait for a call to return, and the first one outside."""
    places: dict[int, int] = {}
    is_ours = True
    while frame is not None and is_ours:
        places[id(frame)] = frame.f_lasti
        is_ours = frame.f_code.co_filename.startswith(_PACKAGE)
        frame = frame.f_back
    return places


def _ended(watch: _Watch) -> None:
    """Python calls this function when the first message has ended, directly from the frame that had it."""
    frame, keeper = sys._getframe(1), watch.keeper()
    one = None if keeper is None else keeper.in_flight
    if keeper is None or one is None or watch not in one.watches:
        return
    if one.places.get(id(frame)) == frame.f_lasti and _was_interrupted(frame, watch):
        first = ReceivedMessage(**dict(zip(_NAMES, one.values, strict=True)))  # type: ignore[arg-type]
        keeper.put_ahead([first, *one.others])


def _was_interrupted(frame: FrameType, watch: _Watch) -> bool:
    """Return whether an exception has passed the present instruction of a frame since the messages were handed out.

    Its traceback is found among the youngest objects. The garbage collector keeps these in the order of their creation.
    """
    young = gc.get_objects(1) + gc.get_objects(0)
    for each in reversed(young):
        if each is watch:
            return False
        if type(each) is TracebackType and each.tb_frame is frame and each.tb_lasti == frame.f_lasti:
            return True
    return False
