"""The flow state that both ends of an AMQP session keep: windows, transfer and delivery ids, and frames that wait (§2.5.6).

The channels of `broker.azure` and of the AMQP endpoint use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from .frames import begin_frame, flow_frame, transfer_frames
from .performatives import Begin, Flow

#: Transfer frames that the peer may send before it gets a flow.
INCOMING_WINDOW = 5000

_MASK, _HALF = 0xFFFFFFFF, 0x80000000

#: The owner of waiting frames: a link.
Owner = TypeVar("Owner")


class SessionFlow(Generic[Owner]):
    """The windows and ids of one end of an AMQP session.

    Args:
        number: The channel number of the frames that are sent.
        send: Sends a frame.
    """

    def __init__(self, number: int, send: Callable[[bytes], None]) -> None:
        self._number = number
        self._send = send
        self._next_incoming_id = 0
        self._incoming_left = INCOMING_WINDOW
        self._next_outgoing_id = 0
        self._next_delivery_id = 0
        self._remote_window = 0
        #: Transfer frames that wait for the peer's window.
        self._waiting: deque[tuple[Owner, bytes]] = deque()

    @property
    def has_window(self) -> bool:
        """Whether the next transfer frame would be sent at once."""
        return self._remote_window > 0 and not self._waiting

    def begin(self, handle_max: int, remote_channel: int | None = None) -> None:
        """Send the begin."""
        self._send(
            begin_frame(
                self._number,
                next_outgoing_id=self._next_outgoing_id,
                incoming_window=INCOMING_WINDOW,
                outgoing_window=INCOMING_WINDOW,
                handle_max=handle_max,
                remote_channel=remote_channel,
            )
        )

    # From the peer

    def on_begin(self, begin: Begin) -> None:
        """Note the peer's id and window."""
        self._next_incoming_id = begin.next_outgoing_id
        self._remote_window = begin.incoming_window

    def on_flow(self, flow: Flow) -> None:
        """Note the peer's window, and send the frames that waited for it."""
        # A peer that has no id yet has not seen our begin, whose id is 0.
        following = 0 if flow.next_incoming_id is None else flow.next_incoming_id
        self._remote_window = remaining(following + flow.incoming_window, self._next_outgoing_id)
        self._send_waiting()

    def on_transfer(self) -> bool:
        """Count a transfer frame; return whether the window allowed it."""
        self._next_incoming_id = (self._next_incoming_id + 1) & _MASK
        self._incoming_left -= 1
        return self._incoming_left >= 0

    @property
    def owes_flow(self) -> bool:
        """Whether the peer has used half of its window, so that it needs a flow soon."""
        return self._incoming_left <= INCOMING_WINDOW // 2

    # To the peer

    def transfer(
        self,
        owner: Owner,
        *,
        handle: int,
        tag: bytes,
        payload: bytes,
        max_frame_size: int,
        message_format: int = 0,
        settled: bool = False,
    ) -> int:
        """Send a delivery of a link, now or when the peer's window allows; return its id."""
        number = self._next_delivery_id
        self._next_delivery_id = (number + 1) & _MASK
        frames = transfer_frames(
            self._number,
            handle=handle,
            delivery_id=number,
            delivery_tag=tag,
            message_format=message_format,
            payload=payload,
            max_frame_size=max_frame_size,
            settled=settled,
        )
        self._waiting.extend((owner, frame) for frame in frames)
        self._send_waiting()
        return number

    def send_flow(
        self,
        handle: int | None = None,
        delivery_count: int = 0,
        credit: int = 0,
        *,
        drain: bool = False,
    ) -> None:
        """Give the peer its whole window again and, with a handle, report the state of a link."""
        self._incoming_left = INCOMING_WINDOW
        self._send(
            flow_frame(
                self._number,
                next_incoming_id=self._next_incoming_id,
                incoming_window=INCOMING_WINDOW,
                next_outgoing_id=self._next_outgoing_id,
                outgoing_window=INCOMING_WINDOW,
                handle=handle,
                delivery_count=delivery_count,
                link_credit=credit,
                drain=drain,
            )
        )

    def drop(self, owner: Owner) -> None:
        """Drop the waiting frames of a link that ends: the rest of a delivery must not follow its detach."""
        if self._waiting:
            self._waiting = deque((each, frame) for each, frame in self._waiting if each is not owner)

    def clear(self) -> None:
        """Drop all waiting frames."""
        self._waiting.clear()

    def _send_waiting(self) -> None:
        while self._waiting and self._remote_window > 0:
            self._next_outgoing_id = (self._next_outgoing_id + 1) & _MASK
            self._remote_window -= 1
            self._send(self._waiting.popleft()[1])


def remaining(limit: int, used: int) -> int:
    """Return how far a serial number may still go up to a limit: 0 if it is there or beyond (§2.8.10, RFC 1982)."""
    left = (limit - used) & _MASK
    return left if left < _HALF else 0


def numbers_between(known: Collection[int], first: int, last: int) -> list[int] | None:
    """Return the known delivery ids from `first` to `last`, in their order; `None` if `last` comes before `first`.

    Args:
        known: The ids that are unsettled.
        first: The first id of a disposition. Ids follow each other modulo 2^32.
        last: The last one.
    """
    span = (last - first) & _MASK
    if span >= _HALF:
        return None
    if span < len(known):
        return [number for at in range(first, first + span + 1) if (number := at & _MASK) in known]
    return sorted((each for each in known if (each - first) & _MASK <= span), key=lambda each: (each - first) & _MASK)
