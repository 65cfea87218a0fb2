"""The limits of the endpoint on its clients. Where Azure has the same limit, the number is Azure's."""

from __future__ import annotations

#: Bytes of a frame at most, and the frame size that every client must accept (AMQP 1.0 §2.8.19).
MAX_FRAME_SIZE, MIN_MAX_FRAME_SIZE = 65536, 512
#: The highest channel of a connection.
MAX_CHANNEL = 4999
#: Links of one connection.
MAX_LINKS = 5000
#: Seconds in which SASL and the open frame must arrive.
HANDSHAKE_TIMEOUT = 15.0
#: Seconds of silence after which a client counts as gone. Half of it is announced.
IDLE_TIMEOUT = 240.0
#: Seconds after which a connection without a link is closed.
UNLINKED_TIMEOUT = 60.0
#: Seconds that a client has for its close.
CLOSE_TIMEOUT = 1.0
#: Bytes that may wait for a client that does not read, before no more is sent or read.
WRITE_BUFFER = 256 * 1024
#: Bytes of messages that a client may have sent and that are not stored yet, before no more is read.
MAX_HELD = 8 * 1024 * 1024
#: Seconds of the longest timer. Later times are reached in steps.
LONGEST_TIMER = 86400.0
