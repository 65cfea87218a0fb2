"""Tokens: shared access signatures, made here, and Microsoft Entra's, fetched; behind one cache that all threads share.

`transport` asks the `TokenCache` for the ``Authorization`` of every request.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote_plus, urlencode

import attrs

from .config import ServiceBusConfig
from .errors import AuthenticationFailedError, ConfigurationError, QueueError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds that a shared access signature is good for.
SAS_LIFETIME = 3600
#: The part of its life, and the most seconds, before its end at which a token is refreshed.
REFRESH_PART, REFRESH_SECONDS = 0.2, 300.0
#: Seconds after a failed refresh in which it is not tried again while the old token is good.
REFRESH_PAUSE = 30.0
#: The scope of Azure Service Bus, for Microsoft Entra tokens.
ENTRA_SCOPE = "https://servicebus.azure.net/.default"


def generate_sas_token(resource: str, key_name: str, key: str, expires_on: int) -> str:
    """Return a ``SharedAccessSignature`` as Azure specifies it.

    The signature is HMAC-SHA256 with the key's text, as it stands in the connection string, over the encoded resource, a
    line feed, and the expiry. See "Shared Access Signature" in Azure Service Bus's documentation.

    Args:
        resource: The URL that it is for, and everything below it.
        key_name: The name of the shared access key.
        key: The key.
        expires_on: When it ends, in seconds since 1970.
    """
    signed = f"{quote_plus(resource)}\n{expires_on}".encode()
    signature = base64.b64encode(hmac.new(key.encode(), signed, hashlib.sha256).digest())
    # The name is encoded twice, as azure-servicebus does; names that need no encoding are not changed by it.
    fields = {"sr": resource, "sig": signature, "se": str(expires_on), "skn": quote_plus(key_name)}
    return "SharedAccessSignature " + urlencode(fields)


@attrs.frozen
class Token:
    """A token, as it stands in ``Authorization``, and when it ends, in seconds since 1970."""

    header: str = attrs.field(repr=False)
    expires_on: float

    def __attrs_post_init__(self) -> None:
        if not (self.header.isascii() and self.header.isprintable()):
            # Found out later, it would be by an error that shows it.
            raise AuthenticationFailedError("the token holds a character that no header can carry, such as a line's end")


class TokenSource(Protocol):
    """Where tokens come from."""

    def audience(self, resource: str) -> str:
        """Return what a token for `resource` is made out to; tokens are kept by it."""

    def fetch(self, audience: str, *, refused: bool) -> Token:
        """Return a new token; `refused` says that the server did not take the last one."""


class SasKey:
    """Signs tokens with a shared access key."""

    def __init__(self, key_name: str, key: str, clock: Callable[[], float] = time.time) -> None:
        self._key_name = key_name
        self._key = key
        self._clock = clock

    def audience(self, resource: str) -> str:
        return resource

    def fetch(self, audience: str, *, refused: bool) -> Token:
        expires_on = int(self._clock()) + SAS_LIFETIME
        return Token(generate_sas_token(audience, self._key_name, self._key, expires_on), expires_on)


class SasSignature:
    """A ready signature from a connection string: it is all there is."""

    def __init__(self, signature: str) -> None:
        self._token = Token(signature, float("inf"))

    def audience(self, resource: str) -> str:
        return ""

    def fetch(self, audience: str, *, refused: bool) -> Token:
        if refused:
            raise AuthenticationFailedError("the server refused the SharedAccessSignature of the connection string")
        return self._token


class EntraCredential:
    """Fetches Microsoft Entra tokens with a credential of azure-identity, or any other `TokenCredential`."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._last: str | None = None

    def audience(self, resource: str) -> str:
        return ENTRA_SCOPE

    def fetch(self, audience: str, *, refused: bool) -> Token:
        try:
            found = self._refetch(audience) if refused else self._credential.get_token(audience)
        except Exception as error:
            # What a credential says of its failure can hold what it was given; its type and chain must do.
            raise AuthenticationFailedError(
                f"{type(self._credential).__name__} gave no token: {type(error).__name__}"
            ) from error
        self._last = found.token
        return Token(f"Bearer {found.token}", float(found.expires_on))

    def _refetch(self, audience: str) -> Any:
        """Ask past the credential's own cache, which holds the token that was refused: claims are what skips it."""
        try:
            found = self._credential.get_token(audience, claims='{"access_token":{}}')
        except Exception:
            # Not every credential takes claims; those of the Azure CLI and PowerShell, which cache nothing, refuse them.
            found = self._credential.get_token(audience)
        if found.token == self._last and type(self._credential).__module__.startswith("azure.identity."):
            # Managed identities ignored claims up to azure-identity 1.25. A copy of one begins with an empty cache.
            self._credential = copy.deepcopy(self._credential)
            found = self._credential.get_token(audience)
        return found


def source_of(config: ServiceBusConfig, credential: TokenCredential | None) -> TokenSource:
    """Return where the tokens of a configuration come from: the credential, the key, or Microsoft Entra's default.

    Raises:
        ConfigurationError: There is neither a key nor anything else to authenticate with.
    """
    if credential is not None:
        if not callable(getattr(credential, "get_token", None)):
            raise ConfigurationError("credential is a TokenCredential, such as azure.identity's: it has no get_token")
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


@attrs.frozen(eq=False, repr=False)
class _Entry:
    """A token that is kept. Its times are kept on both clocks, and whichever is over first counts.

    By the wall clock alone it would seem good for hours after a step back; by the monotonic one alone, after a step forward.

    Attributes:
        refresh_at: When another one is worth asking for, by the wall clock.
        refresh_by: The same, by the monotonic one.
        ends_by: When it ends, by the monotonic clock.
    """

    token: Token
    refresh_at: float
    refresh_by: float
    ends_by: float

    def refresh_in(self, wall: float, steady: float) -> float:
        return min(self.refresh_at - wall, self.refresh_by - steady)

    def ends_in(self, wall: float, steady: float) -> float:
        return min(self.token.expires_on - wall, self.ends_by - steady)


class _Fetch:
    """A fetch under way, which others wait for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: QueueError | None = None


class TokenCache:
    """Keeps one token an audience, and has one thread at a time fetch a new one.

    While a token is refreshed ahead of its end the other threads go on with the old one.
    """

    def __init__(
        self,
        source: TokenSource,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._clock = clock
        self._steady = steady
        self._lock = threading.Lock()  # Guards changes of _entries, _fetches and _refused.
        self._entries: dict[str, _Entry] = {}
        self._fetches: dict[str, _Fetch] = {}
        self._refused: set[str] = set()

    def __repr__(self) -> str:
        return f"<TokenCache of {len(self._entries)} tokens>"

    def token(self, resource: str) -> Token:
        """Return the token for a resource, a URL.

        Raises:
            AuthenticationFailedError: No token could be had.
        """
        return self._entry(resource).token

    def lookup(self, resource: str) -> tuple[Token, float, float]:
        """Return the token for a resource, and in how many seconds another one will be worth asking for, and it ends.

        Raises:
            AuthenticationFailedError: No token could be had.
        """
        entry = self._entry(resource)
        now, steady = self._clock(), self._steady()
        return entry.token, entry.refresh_in(now, steady), entry.ends_in(now, steady)

    def _entry(self, resource: str) -> _Entry:
        audience = self._source.audience(resource)
        while True:
            entry = self._entries.get(audience)
            now, steady = self._clock(), self._steady()
            if entry is not None and entry.refresh_in(now, steady) > 0:
                return entry
            with self._lock:
                fetch = self._fetches.get(audience)
                mine = fetch is None
                if fetch is None:
                    if self._entries.get(audience) is not entry:
                        continue
                    fetch = self._fetches[audience] = _Fetch()
                refused = audience in self._refused
            good = entry is not None and entry.ends_in(now, steady) > 0
            if mine:
                return self._fetch(audience, fetch, entry if good else None, refused)
            if good and entry is not None:
                return entry
            fetch.done.wait()
            if fetch.error is not None:
                raise AuthenticationFailedError(str(fetch.error)) from fetch.error

    def _fetch(self, audience: str, fetch: _Fetch, old: _Entry | None, refused: bool) -> _Entry:
        try:
            token = self._source.fetch(audience, refused=refused)
        except QueueError as error:
            if old is not None:
                logger.warning("a token could not be refreshed, the old one is used on: %s", error)
                again_at, again_by = self._clock() + REFRESH_PAUSE, self._steady() + REFRESH_PAUSE
                kept = attrs.evolve(old, refresh_at=again_at, refresh_by=again_by)
                self._keep(audience, kept, fetch)
                return kept
            fetch.error = error
            self._keep(audience, None, fetch)
            raise
        except BaseException:
            fetch.error = AuthenticationFailedError("the thread that fetched the token was interrupted")
            self._keep(audience, None, fetch)
            raise
        lasts, steady = token.expires_on - self._clock(), self._steady()
        ahead = min(REFRESH_SECONDS, REFRESH_PART * lasts)
        entry = _Entry(token, token.expires_on - ahead, steady + lasts - ahead, steady + lasts)
        self._keep(audience, entry, fetch)
        return entry

    def _keep(self, audience: str, entry: _Entry | None, fetch: _Fetch) -> None:
        with self._lock:
            if entry is not None:
                self._entries[audience] = entry
                self._refused.discard(audience)
            if self._fetches.get(audience) is fetch:
                del self._fetches[audience]
        fetch.done.set()

    def drop(self, resource: str, header: str) -> None:
        """Forget a token that the server refused, unless another one has replaced it."""
        audience = self._source.audience(resource)
        with self._lock:
            entry = self._entries.get(audience)
            if entry is not None and entry.token.header == header:
                del self._entries[audience]
                self._refused.add(audience)

    def after_fork(self) -> None:
        """In a forked child: forget what other threads of the parent were doing."""
        self._lock = threading.Lock()
        self._fetches = {}
