"""The text of the cookie that signs a user in. `sign_in` sends it, and `explorer` checks it.

The gateway stores no list of the users who are signed in. The cookie names a key of the gateway and is signed with the secret
of this key. It stops working when the key is revoked or its secret changes. It works at every gateway that has the key, so a
load balancer may send the requests of one user to different gateways.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Callable
from hashlib import sha256

import attrs

from ..access_keys import AccessKey
from ..authorization import Guard

#: Seconds for which a user stays signed in.
LIFETIME = 8 * 3600
#: Cookies of users who have signed out that are remembered until they expire.
MAX_ENDED = 10_000
#: The longest text that is checked, in characters.
MAX_LENGTH = 1024
#: No token of the protocol is signed over a text with this character, so that a signature is good for one purpose only.
_SEPARATOR = "\x00"


@attrs.frozen
class SignedIn:
    """A user who is signed in.

    Attributes:
        key: The key of the gateway, as it is now.
        csrf_token: Every form of the user has this text. Other sites cannot know it.
    """

    key: AccessKey
    csrf_token: str = attrs.field(repr=False)


class SignInTokens:
    """Makes and checks the texts of cookies. It belongs to the thread of the event loop.

    Args:
        guard: Has the keys.
        now: Returns the time in seconds since 1970.
    """

    def __init__(self, guard: Guard, now: Callable[[], float] = time.time) -> None:
        self._guard = guard
        self._now = now
        #: The digests of cookies whose users have signed out, with the time at which the cookie expires; the oldest first.
        self._ended: dict[bytes, float] = {}

    def issue(self, key: AccessKey) -> str:
        """Return the text of a new cookie for a user who has this key. Each call returns another text."""
        name = base64.urlsafe_b64encode(key.name.encode("utf-8", "surrogatepass")).decode().rstrip("=")
        signed = f"{name}.{int(self._now()) + LIFETIME}.{secrets.token_urlsafe(24)}"
        return f"{signed}.{_signature(key, 'sign-in', signed)}"

    def check(self, text: str) -> SignedIn | None:
        """Return the user of a cookie. `None`: it is not one of ours, has expired, or its key has changed or is revoked."""
        signed, _, signature = text.rpartition(".")
        if len(text) > MAX_LENGTH or not re.fullmatch(r"[\w-]*\.[0-9]{1,12}\.[\w-]{32}", signed, re.ASCII):
            return None
        encoded, expires, _ = signed.split(".")
        key = self._key(encoded)
        if key is None or not hmac.compare_digest(_signature(key, "sign-in", signed), signature):
            return None
        if int(expires) <= self._now() or _digest(text) in self._ended:
            return None
        return SignedIn(key, _signature(key, "form", signed))

    def end(self, text: str) -> None:
        """Refuse a cookie from now on, although it has not expired."""
        if self.check(text) is None:
            return
        for digest in [digest for digest, expires in self._ended.items() if expires <= self._now()]:
            del self._ended[digest]
        while len(self._ended) >= MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[_digest(text)] = self._now() + LIFETIME

    def _key(self, encoded: str) -> AccessKey | None:
        try:
            name = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        return next((key for key in self._guard.keys if key.name == name), None)


def _signature(key: AccessKey, purpose: str, text: str) -> str:
    signed = _SEPARATOR.join(("azsession explorer", purpose, text))
    digest = hmac.new(key.key.encode("utf-8", "surrogatepass"), signed.encode(), sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
