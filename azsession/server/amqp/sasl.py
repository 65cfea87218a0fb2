"""Authentication with SASL before AMQP (AMQP 1.0 §5.3), with the mechanisms of Azure."""

from __future__ import annotations

from ...amqp import SaslInit
from ...errors import AuthenticationFailedError
from .claims import Claims

#: The mechanisms that the server offers. The clients of the first and the last authenticate later, with tokens on ``$cbs``.
MECHANISMS = ("MSSBCBS", "PLAIN", "ANONYMOUS")


def authenticate(init: SaslInit, claims: Claims) -> bool:
    """Return whether the client may go on. With PLAIN (RFC 4616), it gives the name and the secret of an access key."""
    if init.mechanism != "PLAIN":
        return init.mechanism in MECHANISMS
    parts = init.initial_response.split(b"\0")
    if len(parts) != 3:
        return False
    try:
        claims.sign_in(parts[1].decode(), parts[2].decode())
    except (UnicodeDecodeError, AuthenticationFailedError):
        return False
    return True
