"""The sources of tokens: shared access keys and signatures, and credentials for Microsoft Entra tokens.

`token_cache` asks a source for each new token.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import attrs

from . import interrupts
from .config import ServiceBusConfig
from .errors import AuthenticationFailedError, ConfigurationError, one_line
from .protocol.sas import generate_sas_token

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

#: Seconds that a shared access signature is valid.
SAS_LIFETIME = 3600
#: The scope of Azure Service Bus, for Microsoft Entra tokens.
ENTRA_SCOPE = "https://servicebus.azure.net/.default"
#: The longest text of Microsoft Entra in an error message, in characters.
MAX_REASON = 500


@attrs.frozen
class Token:
    """A token.

    Args:
        header: The value of the ``Authorization`` header.
        expires_on: The expiry in seconds since 1970.

    Raises:
        AuthenticationFailedError: A header cannot carry the token.
    """

    header: str = attrs.field(repr=False)
    expires_on: float

    def __attrs_post_init__(self) -> None:
        if not (self.header.isascii() and self.header.isprintable()):
            # http.client would also refuse the header, but would show the token in its error.
            raise AuthenticationFailedError(
                "the token contains a character that no header can carry, for example a line feed"
            )


class TokenSource(Protocol):
    """Makes or fetches tokens. Its `repr` names it in error messages."""

    @property
    def is_slow(self) -> bool:
        """Whether `fetch` can block."""

    @property
    def renews(self) -> bool:
        """Whether `fetch` can return another token after the server refused one."""

    def audience(self, resource: str) -> str:
        """Return the audience of a token for `resource`, a URL. Resources with the same audience share a token."""

    def fetch(self, audience: str, *, refused: bool) -> Token:
        """Return a new token. Blocks if `is_slow`.

        Args:
            audience: The audience.
            refused: The server refused the previous token.

        Raises:
            AuthenticationFailedError: There is no token.
        """


class SasKey:
    """Signs tokens with a shared access key."""

    is_slow: bool = False
    renews: bool = True

    def __init__(self, key_name: str, key: str, clock: Callable[[], float] = time.time) -> None:
        self._key_name = key_name
        self._key = key
        self._clock = clock

    def __repr__(self) -> str:
        return f"the SharedAccessKey {self._key_name!r}"

    def audience(self, resource: str) -> str:
        return resource

    def fetch(self, audience: str, *, refused: bool) -> Token:
        expires_on = int(self._clock()) + SAS_LIFETIME
        return Token(generate_sas_token(audience, self._key_name, self._key, expires_on), expires_on)


class SasSignature:
    """Returns the signature of a connection string, which cannot be renewed."""

    is_slow: bool = False
    renews: bool = False

    def __init__(self, signature: str) -> None:
        self._token = Token(signature, float("inf"))

    def __repr__(self) -> str:
        return "the SharedAccessSignature of the connection string"

    def audience(self, resource: str) -> str:
        return ""

    def fetch(self, audience: str, *, refused: bool) -> Token:
        return self._token


class EntraCredential:
    """Fetches Microsoft Entra tokens from a `TokenCredential`, for example one of azure-identity.

    Raises:
        ConfigurationError: The credential has no `get_token`, or an asynchronous one.
    """

    is_slow: bool = True
    renews: bool = True

    def __init__(self, credential: TokenCredential) -> None:
        get_token = getattr(credential, "get_token", None)
        if not callable(get_token):
            raise ConfigurationError("credential has no get_token: give a TokenCredential, for example one of azure.identity")
        if any(map(_is_asynchronous, (get_token, getattr(get_token, "__call__", None)))):  # noqa: B004
            raise ConfigurationError(
                f"{type(credential).__name__} is asynchronous: give a credential for synchronous code, for example one of "
                "azure.identity instead of azure.identity.aio"
            )
        self._credential = credential
        self._last: str | None = None

    def __repr__(self) -> str:
        return type(self._credential).__name__

    def audience(self, resource: str) -> str:
        return ENTRA_SCOPE

    def fetch(self, audience: str, *, refused: bool) -> Token:
        older = interrupts.handled()
        try:
            found = self._refetch(audience) if refused else self._get_token(audience)
        except AuthenticationFailedError:
            raise
        except Exception as error:
            interrupts.let_pass(error, older)
            raise AuthenticationFailedError(f"{self!r} gave no token: {_reason(error)}") from error
        self._last = found.token
        return Token(f"Bearer {found.token}", float(found.expires_on))

    def _get_token(self, audience: str, **options: Any) -> AccessToken:
        """Call the credential, and check its result.

        Raises:
            AuthenticationFailedError: It is not a token.
        """
        found: Any = self._credential.get_token(audience, **options)
        if inspect.iscoroutine(found):
            found.close()
        token, expires_on = getattr(found, "token", None), getattr(found, "expires_on", None)
        if not isinstance(token, str) or not token:
            raise AuthenticationFailedError(
                f"{self!r}.get_token returned {type(found).__name__}, which has no token: it must return an AccessToken"
            )
        if isinstance(expires_on, bool) or not isinstance(expires_on, (int, float)) or math.isnan(expires_on):
            raise AuthenticationFailedError(
                f"{self!r}.get_token returned a token whose expires_on is {type(expires_on).__name__}: it must be a number, "
                "the seconds since 1970"
            )
        return cast("AccessToken", found)

    def _refetch(self, audience: str) -> AccessToken:
        """Fetch a token past the credential's own cache, which contains the refused token. Claims bypass that cache."""
        older = interrupts.handled()
        try:
            found = self._get_token(audience, claims='{"access_token":{}}')
        except Exception as error:
            interrupts.let_pass(error, older)
            # Not every credential accepts claims. Those of the Azure CLI and PowerShell refuse them, but cache nothing.
            found = self._get_token(audience)
        if found.token == self._last and type(self._credential).__module__.startswith("azure.identity."):
            # Up to azure-identity 1.25, managed identities ignore claims. A copy of the credential has an empty cache.
            self._credential = copy.deepcopy(self._credential)
            found = self._get_token(audience)
        return found


def _is_asynchronous(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _reason(error: Exception) -> str:
    """Return the reason for an error message: the service's own text, or else the type.

    Other texts of credentials can contain secrets.
    """
    text = re.search(r"AADSTS[0-9]+:.*?(?=\s*(?:Trace ID|Correlation ID|Timestamp):|[\r\n]|$)", str(error))
    name = type(error).__name__
    return f"{name}: {one_line(text[0][:MAX_REASON])}" if text else name


def source_of(config: ServiceBusConfig, credential: TokenCredential | None) -> TokenSource:
    """Return the source of tokens for a configuration: the credential, the key, or azure-identity's default credential.

    Args:
        config: The configuration.
        credential: A `TokenCredential`, which is used instead of the configuration's key.

    Raises:
        ConfigurationError: The connection string has no key and there is no credential, or the credential is none for
            synchronous code.
    """
    if credential is not None:
        return EntraCredential(credential)
    parsed = config.credentials
    if parsed is not None and parsed.key_name is not None and parsed.key is not None:
        return SasKey(parsed.key_name, parsed.key)
    if parsed is not None and parsed.signature is not None:
        return SasSignature(parsed.signature)
    if parsed is not None:
        raise ConfigurationError("the connection string has no SharedAccessKey or SharedAccessSignature: give a credential")
    from azure.identity import DefaultAzureCredential

    return EntraCredential(DefaultAzureCredential())
