"""How far connections and links are. The docstring of `connection` has the transitions of a connection."""

from __future__ import annotations

from enum import Enum

from ... import amqp


class ConnectionState(Enum):
    """How far a connection is."""

    SASL_HEADER = "SASL header"
    SASL = "SASL"
    AMQP_HEADER = "AMQP header"
    OPENING = "opening"
    OPENED = "opened"
    CLOSING = "closing"
    CLOSED = "closed"


class LinkState(Enum):
    """ATTACHING until the attach is answered; ATTACHED; DETACHED when the server has sent its detach."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHED = "detached"


#: In the states that wait for a header: the header, and the state that follows.
AWAITED_HEADERS = {
    ConnectionState.SASL_HEADER: (amqp.SASL_HEADER, ConnectionState.SASL),
    ConnectionState.AMQP_HEADER: (amqp.AMQP_HEADER, ConnectionState.OPENING),
}
