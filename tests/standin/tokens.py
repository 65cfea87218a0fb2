"""The check of tokens that clients put: Azure's shared access signatures, and a substitute for JWTs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

SAS, JWT = "servicebus.windows.net:sastoken", "jwt"
ALL = frozenset({"Send", "Listen", "Manage"})
Keys = Mapping[str, tuple[str, Set[str]]]


class InvalidTokenError(Exception):
    """A token is refused; the text says why."""


@dataclass(frozen=True)
class Grant:
    """The rights that a token gives on a path and all paths below it, until `expires` (seconds since 1970)."""

    path: str
    rights: Set[str]
    expires: float


def path_of(audience: str) -> str:
    """Return the path of an audience or address, without scheme, host and slashes, in lower case."""
    return re.sub(r"^[a-z]+://[^/]*", "", audience.strip(), flags=re.IGNORECASE).strip("/").lower()


def verify(token: str, kind: str, audience: str, keys: Keys, expires: float | None) -> Grant:
    """Return the rights of a token for an audience.

    Raises:
        InvalidTokenError: The token is malformed, expired, wrongly signed or for another audience.
    """
    # The official SDK also puts signatures as "jwt", so the token itself decides.
    if kind == JWT and not token.startswith("SharedAccessSignature "):
        if not token.startswith("good"):
            raise InvalidTokenError("InvalidSignature: The token has an invalid signature.")
        return Grant(path_of(audience), ALL, expires or time.time() + 3600)
    if kind not in (SAS, JWT):
        raise InvalidTokenError(f"Unsupported token type {kind}.")
    if not token.startswith("SharedAccessSignature "):
        raise InvalidTokenError("MalformedToken: The token is malformed.")
    # Keep the plus signs of a signature that is not quoted: parse_qs would make them spaces.
    parts = {name: values[0] for name, values in parse_qs(token.split(" ", 1)[1].replace("+", "%2B")).items()}
    raw = dict(part.partition("=")[::2] for part in token.split(" ", 1)[1].split("&"))
    try:
        resource, signature, expiry, name = parts["sr"], parts["sig"], parts["se"], parts["skn"]
        until = float(expiry)
    except (KeyError, ValueError):
        raise InvalidTokenError("MalformedToken: The token is malformed.") from None
    if name not in keys:
        raise InvalidTokenError("InvalidSignature: The token has an invalid signature.")
    key, rights = keys[name]
    digest = hmac.new(key.encode(), f"{raw['sr']}\n{raw['se']}".encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(base64.b64encode(digest).decode(), signature):
        raise InvalidTokenError("InvalidSignature: The token has an invalid signature.")
    if until <= time.time():
        raise InvalidTokenError("ExpiredToken: The token is expired.")
    resource_path, path = path_of(unquote(resource)), path_of(audience)
    if resource_path and path != resource_path and not path.startswith(resource_path + "/"):
        raise InvalidTokenError("InvalidAudience: The authorization header contains a token for another resource.")
    return Grant(path, rights, until)
