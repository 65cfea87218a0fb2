"""Shared access signatures (SAS), the tokens of Azure Service Bus: the client signs them, and the gateway checks them.

The form is described in Microsoft's documentation: https://learn.microsoft.com/rest/api/eventhub/generate-sas-token
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote_plus, unquote, unquote_plus, urlencode

#: The longest token that is parsed, in characters.
MAX_TOKEN_LENGTH = 4096

#: The scheme of tokens in the header ``Authorization``.
SCHEME = "SharedAccessSignature"
_SCHEME = f"{SCHEME} "
_FIELDS = {"sr", "sig", "se", "skn"}
#: The fields of a malformed token, so that its check takes the same steps.
_NO_FIELDS = dict.fromkeys(_FIELDS, "")
#: Signs in place of an unknown key, so that an unknown key takes as long as a wrong signature.
_UNKNOWN_SECRET = base64.b64encode(os.urandom(32)).decode()


def generate_sas_token(resource: str, key_name: str, key: str, expires_on: int) -> str:
    """Return a ``SharedAccessSignature`` for the ``Authorization`` header.

    The signature is the HMAC-SHA256, with the text of the key, of the encoded resource, a line feed and the expiry.

    Args:
        resource: The URL that the token is for. The token is also valid for all paths below it.
        key_name: The name of the shared access key.
        key: The key, as in the connection string.
        expires_on: The expiry in seconds since 1970.
    """
    signature = base64.b64encode(_sign(key, quote_plus(resource), str(expires_on)))
    # azure-servicebus encodes the name twice, and so do we. A name without special characters stays the same.
    fields = {"sr": resource, "sig": signature, "se": str(expires_on), "skn": quote_plus(key_name)}
    return _SCHEME + urlencode(fields)


class VerifiedToken(NamedTuple):
    """The result of a check of a shared access signature.

    Attributes:
        resource: The URL that the token is for, percent-encoded.
        key_name: The name of the key.
        is_valid: Whether the token is well-formed, signed with a known key, and not expired.
        expires_on: The expiry in seconds since 1970; 0 if it is malformed.
    """

    resource: str
    key_name: str
    is_valid: bool
    expires_on: int


def verify_token(authorization: str, secret_of: Callable[[str], str | None]) -> VerifiedToken:
    """Check a shared access signature. The check takes the same steps for all wrong tokens.

    Args:
        authorization: The header ``Authorization``.
        secret_of: Returns the secret of a key by the name of the key, or `None` for an unknown key.
    """
    found = _fields_of(authorization)
    fields = found or _NO_FIELDS
    # Azure's own token generator encodes the name twice, others once. A name that needs no encoding is the same each time.
    key_name = unquote_plus(unquote_plus(fields["skn"]))
    secret = secret_of(key_name)
    expected = _sign(_UNKNOWN_SECRET if secret is None else secret, fields["sr"], fields["se"])
    try:
        signature = base64.b64decode(unquote(fields["sig"]), validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    is_signed = hmac.compare_digest(expected, signature)
    expires_on = int(fields["se"]) if re.fullmatch(r"[0-9]{1,12}", fields["se"]) else 0
    is_valid = found is not None and secret is not None and is_signed and expires_on > time.time()
    return VerifiedToken(fields["sr"], key_name, is_valid, expires_on)


def expiry_of(token: str) -> int:
    """Return the expiry of a token in seconds since 1970; 0 if it has none. The caller has checked the token."""
    found = re.search(r"[ &]se=([0-9]{1,12})(?:&|$)", token)
    return int(found[1]) if found else 0


def _sign(key: str, encoded_resource: str, expires_on: str) -> bytes:
    signed = f"{encoded_resource}\n{expires_on}".encode("utf-8", "surrogatepass")
    return hmac.new(key.encode(), signed, hashlib.sha256).digest()


def _fields_of(authorization: str) -> dict[str, str] | None:
    """Return the four fields of a token; `None` if one is missing, there twice, or there is another one."""
    if len(authorization) > MAX_TOKEN_LENGTH or not authorization.startswith(_SCHEME):
        return None
    fields = dict(re.findall(r"(?:^|&)([^=&]*)=([^&]*)", authorization[len(_SCHEME) :]))
    return fields if set(fields) == _FIELDS and authorization.count("&") == 3 else None
