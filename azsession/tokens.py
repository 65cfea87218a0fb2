"""Tokens: shared access signatures and Microsoft Entra tokens, and one cache of them for all threads.

The client's transport and the Azure broker ask the `TokenCache` for a token for each request or connection.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from . import interrupts
from .config import ServiceBusConfig
from .errors import AuthenticationFailedError, ConfigurationError, QueueError
from .protocol.sas import generate_sas_token

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds that a shared access signature is valid.
SAS_LIFETIME = 3600
#: A token is refreshed when this part of its lifetime is left, but not earlier than this many seconds before its expiry.
REFRESH_PART, REFRESH_SECONDS = 0.2, 300.0
#: Seconds between two failed refreshes of a token that is still valid.
REFRESH_PAUSE = 30.0
#: The scope of Azure Service Bus, for Microsoft Entra tokens.
ENTRA_SCOPE = "https://servicebus.azure.net/.default"


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
    """Makes or fetches tokens."""

    def audience(self, resource: str) -> str:
        """Return the audience of a token for `resource`, a URL. Resources with the same audience share a token."""

    def fetch(self, audience: str, *, refused: bool) -> Token:
        """Return a new token. Blocks.

        Args:
            audience: The audience.
            refused: The server refused the previous token.

        Raises:
            AuthenticationFailedError: There is no token.
        """


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
    """Returns the signature of a connection string, which cannot be renewed."""

    def __init__(self, signature: str) -> None:
        self._token = Token(signature, float("inf"))

    def audience(self, resource: str) -> str:
        return ""

    def fetch(self, audience: str, *, refused: bool) -> Token:
        if refused:
            raise AuthenticationFailedError("the server refused the SharedAccessSignature of the connection string")
        return self._token


class EntraCredential:
    """Fetches Microsoft Entra tokens from a `TokenCredential`, for example one of azure-identity."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._last: str | None = None

    def audience(self, resource: str) -> str:
        return ENTRA_SCOPE

    def fetch(self, audience: str, *, refused: bool) -> Token:
        older = interrupts.handled()
        try:
            found = self._refetch(audience) if refused else self._credential.get_token(audience)
        except Exception as error:
            interrupts.let_pass(error, older)
            # The text of the credential's error can contain a secret, so that the message has only its type.
            raise AuthenticationFailedError(
                f"{type(self._credential).__name__} gave no token: {type(error).__name__}"
            ) from error
        self._last = found.token
        return Token(f"Bearer {found.token}", float(found.expires_on))

    def _refetch(self, audience: str) -> AccessToken:
        """Fetch a token past the credential's own cache, which contains the refused token. Claims bypass that cache."""
        older = interrupts.handled()
        try:
            found = self._credential.get_token(audience, claims='{"access_token":{}}')
        except Exception as error:
            interrupts.let_pass(error, older)
            # Not every credential accepts claims. Those of the Azure CLI and PowerShell refuse them, but cache nothing.
            found = self._credential.get_token(audience)
        if found.token == self._last and type(self._credential).__module__.startswith("azure.identity."):
            # Up to azure-identity 1.25, managed identities ignore claims. A copy of the credential has an empty cache.
            self._credential = copy.deepcopy(self._credential)
            found = self._credential.get_token(audience)
        return found


def source_of(config: ServiceBusConfig, credential: TokenCredential | None) -> TokenSource:
    """Return the source of tokens for a configuration: the credential, the key, or azure-identity's default credential.

    Args:
        config: The configuration.
        credential: A `TokenCredential`, which is used instead of the configuration's key.

    Raises:
        ConfigurationError: The connection string has no key, and there is no credential.
    """
    if credential is not None:
        if not callable(getattr(credential, "get_token", None)):
            raise ConfigurationError("credential has no get_token: give a TokenCredential, for example one of azure.identity")
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
    """A token in the cache, with its times on two clocks. The earlier one counts.

    After the wall clock was set back, the token would seem valid for too long by that clock alone. After it was set forward,
    the same holds for the monotonic clock.

    Attributes:
        refresh_at: When to refresh the token, on the wall clock.
        refresh_by: When to refresh the token, on the monotonic clock.
        ends_by: When the token expires, on the monotonic clock.
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
    """A fetch that is running. Other threads wait for it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: QueueError | None = None


class TokenCache:
    """Keeps one token for each audience. Thread-safe.

    One thread at a time fetches a new token. During an early refresh the other threads use the old token.

    Args:
        source: Makes or fetches the tokens.
        clock: The wall clock, in seconds since 1970.
        steady: The monotonic clock, in seconds.
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
        """Return the token for a resource, a URL. Blocks if the token must be fetched.

        Raises:
            AuthenticationFailedError: There is no valid token, and the fetch of one failed.
        """
        return self._entry(resource).token

    def lookup(self, resource: str) -> tuple[Token, float, float]:
        """Return the token for a resource, the seconds until its refresh, and the seconds until its expiry. Blocks.

        Raises:
            AuthenticationFailedError: There is no valid token, and the fetch of one failed.
        """
        entry = self._entry(resource)
        now, steady = self._clock(), self._steady()
        return entry.token, entry.refresh_in(now, steady), entry.ends_in(now, steady)

    def at_hand(self, resource: str) -> tuple[Token, float, float] | None:
        """Return what `lookup` returns, if that needs no fetch in this thread; else `None`. Does not block."""
        audience = self._source.audience(resource)
        entry, now, steady = self._entries.get(audience), self._clock(), self._steady()
        if entry is None:
            return None
        refresh_in, ends_in = entry.refresh_in(now, steady), entry.ends_in(now, steady)
        if refresh_in > 0 or (audience in self._fetches and ends_in > 0):
            return entry.token, refresh_in, ends_in
        return None

    def _entry(self, resource: str) -> _Entry:
        """Return a valid entry: a cached one, a new one of this thread, or the one that another thread is fetching."""
        audience = self._source.audience(resource)
        while True:
            entry = self._entries.get(audience)
            now, steady = self._clock(), self._steady()
            if entry is not None and entry.refresh_in(now, steady) > 0:
                return entry
            with self._lock:
                fetch = self._fetches.get(audience)
                fetches_itself = fetch is None
                if fetch is None:
                    if self._entries.get(audience) is not entry:
                        continue
                    fetch = self._fetches[audience] = _Fetch()
                refused = audience in self._refused
            still_valid = entry is not None and entry.ends_in(now, steady) > 0
            if fetches_itself:
                return self._fetch(audience, fetch, entry if still_valid else None, refused)
            if still_valid and entry is not None:
                return entry
            fetch.done.wait()
            if fetch.error is not None:
                raise AuthenticationFailedError(str(fetch.error)) from fetch.error

    def _fetch(self, audience: str, fetch: _Fetch, old: _Entry | None, refused: bool) -> _Entry:
        """Fetch a token and store it. If that fails, keep the `old` entry, which is still valid, for a while."""
        try:
            token = self._source.fetch(audience, refused=refused)
        except QueueError as error:
            if old is not None:
                logger.warning("the token could not be refreshed, and the old one stays in use: %s", error)
                again_at, again_by = self._clock() + REFRESH_PAUSE, self._steady() + REFRESH_PAUSE
                kept = attrs.evolve(old, refresh_at=again_at, refresh_by=again_by)
                self._finish(audience, kept, fetch)
                return kept
            fetch.error = error
            self._finish(audience, None, fetch)
            raise
        except BaseException:
            fetch.error = AuthenticationFailedError("the thread that fetched the token was interrupted")
            self._finish(audience, None, fetch)
            raise
        lasts, steady = token.expires_on - self._clock(), self._steady()
        ahead = min(REFRESH_SECONDS, REFRESH_PART * lasts)
        entry = _Entry(token, token.expires_on - ahead, steady + lasts - ahead, steady + lasts)
        self._finish(audience, entry, fetch)
        return entry

    def _finish(self, audience: str, entry: _Entry | None, fetch: _Fetch) -> None:
        """Store an entry, if the fetch gave one, and wake the threads that wait for the fetch."""
        with self._lock:
            if entry is not None:
                self._entries[audience] = entry
                self._refused.discard(audience)
            if self._fetches.get(audience) is fetch:
                del self._fetches[audience]
        fetch.done.set()

    def drop(self, resource: str, header: str) -> None:
        """Forget a token that the server refused, unless a new one has already replaced it.

        Args:
            resource: The URL that the token was used for.
            header: The refused token.
        """
        audience = self._source.audience(resource)
        with self._lock:
            entry = self._entries.get(audience)
            if entry is not None and entry.token.header == header:
                del self._entries[audience]
                self._refused.add(audience)

    def after_fork(self) -> None:
        """In a forked child: forget the fetches of the parent's threads."""
        self._lock = threading.Lock()
        self._fetches = {}
