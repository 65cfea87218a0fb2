"""How far a connection of the HTTP server is. `connection` moves from phase to phase."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """The event that a connection waits for."""

    OPENING = "the end of the TLS handshake"
    IDLE = "a request"
    HEAD = "the rest of a request's head"
    BODY = "the body of a request"
    WORK = "the application"
    CLOSING = "the end of the connection"
