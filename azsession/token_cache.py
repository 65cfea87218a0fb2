"""`TokenCache`: one token for each audience, for all threads.

The client's transport and the Azure broker ask it for a token for each request or connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import attrs

from . import threads
from .errors import AuthenticationFailedError
from .events import Event
from .logs import SessionLogger, get_logger
from .tokens import Token, TokenSource

logger: SessionLogger = get_logger(__name__)

#: Is given the function that ends a wait, and `None` after the wait.
OnCancel = Callable[[Callable[[], object] | None], object]

#: A token is refreshed when this part of its lifetime is left, but not earlier than this many seconds before its expiry.
REFRESH_PART, REFRESH_SECONDS = 0.2, 300.0
#: Seconds between two failed refreshes of a token that is still valid.
REFRESH_PAUSE = 30.0
#: Seconds after which a waiting thread starts a fetch that another thread should have started, but was interrupted.
START_PATIENCE = 0.1


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
    """A fetch of a token in a thread of its own, so that a credential that hangs holds up no caller for ever.

    Args:
        work: Fetches the token and stores it.

    Attributes:
        has_ended: Whether `entry` or `error` is set.
        entry: The entry that is valid at the end, or `None`.
        error: Why there is none.
    """

    def __init__(self, work: Callable[[_Fetch], None]) -> None:
        self._work = work
        self._claim = threading.Lock()  # Taken by the thread that does the work, and never released.
        self._waiting: list[Event] = []  # `append` and `copy` are atomic.
        self.has_ended: bool = False
        self.entry: _Entry | None = None
        self.error: AuthenticationFailedError | None = None

    def start(self) -> None:
        """Start the fetch, unless it runs. An interrupted start can be repeated."""
        if self._claim.locked():
            return
        try:
            threads.start(threading.Thread(target=self._run, name="azsession-token", daemon=True))
        except RuntimeError:  # There are too many threads, or the interpreter is exiting.
            self._run()

    def _run(self) -> None:
        if self._claim.acquire(blocking=False):
            try:
                self._work(self)
            finally:
                self.end()

    def end(self) -> None:
        """Wake the threads that wait."""
        self.has_ended = True
        for event in self._waiting.copy():
            event.set()

    def wait(self, timeout: float | None, on_cancel: OnCancel | None) -> None:
        """Wait until the fetch has ended, or for `timeout` seconds, or until the wait is cancelled."""
        event = Event()
        self._waiting.append(event)
        if self.has_ended:
            return
        if on_cancel is not None:
            on_cancel(event.set)
        try:
            if not event.wait(START_PATIENCE if timeout is None else min(timeout, START_PATIENCE)):
                self.start()
                event.wait(None if timeout is None else max(0.0, timeout - START_PATIENCE))
        finally:
            if on_cancel is not None:
                on_cancel(None)


class TokenCache:
    """Keeps one token for each audience. Thread-safe.

    One thread at a time fetches a new token. During an early refresh, all others use the old token.

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
        # Guards changes of the fields below. A signal handler may use the cache while its thread holds the lock.
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._fetches: dict[str, _Fetch] = {}
        self._refused: set[str] = set()

    def __repr__(self) -> str:
        return f"<TokenCache of {len(self._entries)} tokens>"

    @property
    def source_name(self) -> str:
        """The source of the tokens, for error messages."""
        return repr(self._source)

    def token(
        self,
        resource: str,
        timeout: float | None = None,
        on_cancel: OnCancel | None = None,
    ) -> Token:
        """Return the token for a resource, a URL. Blocks if there is no valid token, but not during an early refresh.

        Args:
            resource: The URL.
            timeout: Seconds to wait for a new token at most. `None`: any time.
            on_cancel: Is given a function that ends the wait, and `None` after the wait.

        Raises:
            AuthenticationFailedError: There is no valid token, and the fetch of one failed, took too long or was cancelled.
        """
        audience = self._source.audience(resource)
        entry = self._entries.get(audience)
        now, steady = self._clock(), self._steady()
        if entry is not None and entry.refresh_in(now, steady) > 0:
            return entry.token
        if not self._source.is_slow:
            return self._new_entry(audience, entry, refused=audience in self._refused).token
        fetch = self._begin_fetch(audience, entry)
        if entry is not None and entry.ends_in(now, steady) > 0:
            return entry.token
        return self._entry_of(fetch, timeout, on_cancel).token

    def lookup(self, resource: str) -> tuple[Token, float, float]:
        """Return the token for a resource, the seconds until its refresh, and the seconds until its expiry.

        Blocks if a refresh is due, until the refresh has ended.

        Raises:
            AuthenticationFailedError: There is no valid token, and the fetch of one failed.
        """
        audience = self._source.audience(resource)
        entry = self._entries.get(audience)
        if entry is None or entry.refresh_in(self._clock(), self._steady()) <= 0:
            if self._source.is_slow:
                entry = self._entry_of(self._begin_fetch(audience, entry), None, None)
            else:
                entry = self._new_entry(audience, entry, refused=audience in self._refused)
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

    def _begin_fetch(self, audience: str, seen: _Entry | None) -> _Fetch:
        """Return the fetch of a new token that runs, or a new one. `seen`: the entry that needs it."""
        with self._lock:
            fetch = self._fetches.get(audience)
            if fetch is None:
                fetch = _Fetch(lambda fetch: self._do_fetch(audience, fetch))
                entry = self._entries.get(audience)
                if entry is not seen and entry is not None:
                    # Another thread has fetched a token in between.
                    fetch.entry, fetch.has_ended = entry, True
                    return fetch
                self._fetches[audience] = fetch
                is_new = True
            else:
                is_new = False
        if is_new:
            fetch.start()
        return fetch

    def _do_fetch(self, audience: str, fetch: _Fetch) -> None:
        """Fetch a token and store it, in the thread of the fetch."""
        old = self._entries.get(audience)
        try:
            fetch.entry = self._new_entry(audience, old, refused=audience in self._refused)
        except AuthenticationFailedError as error:
            fetch.error = error
        except BaseException as error:
            fetch.error = AuthenticationFailedError(f"the fetch of a token failed: {type(error).__name__}")
            fetch.error.__cause__ = error
        finally:
            with self._lock:
                if self._fetches.get(audience) is fetch:
                    del self._fetches[audience]

    def _entry_of(self, fetch: _Fetch, timeout: float | None, on_cancel: OnCancel | None) -> _Entry:
        """Wait for a fetch, and return its entry."""
        began = time.monotonic()
        fetch.wait(timeout, on_cancel)
        if fetch.entry is not None:
            return fetch.entry
        if fetch.error is not None:
            raise AuthenticationFailedError(str(fetch.error)) from fetch.error
        if timeout is None or time.monotonic() < began + timeout:
            raise AuthenticationFailedError("the wait for a token was cancelled")
        raise AuthenticationFailedError(f"{self._source!r} gave no token within {timeout:g} s")

    def _new_entry(self, audience: str, old: _Entry | None, *, refused: bool) -> _Entry:
        """Fetch a token and store it. If that fails, keep the `old` entry for a while if it is still valid."""
        try:
            token = self._source.fetch(audience, refused=refused)
        except AuthenticationFailedError as error:
            now, steady = self._clock(), self._steady()
            if old is None or old.ends_in(now, steady) <= 0:
                raise
            logger.warning("the token could not be refreshed, and the old one stays in use: %s", error)
            entry = attrs.evolve(old, refresh_at=now + REFRESH_PAUSE, refresh_by=steady + REFRESH_PAUSE)
        else:
            lasts, steady = token.expires_on - self._clock(), self._steady()
            ahead = min(REFRESH_SECONDS, REFRESH_PART * lasts)
            entry = _Entry(token, token.expires_on - ahead, steady + lasts - ahead, steady + lasts)
        with self._lock:
            self._entries[audience] = entry
            self._refused.discard(audience)
        return entry

    def drop(self, resource: str, header: str) -> bool:
        """Forget a token that the server refused, unless a new one has already replaced it.

        Args:
            resource: The URL that the token was used for.
            header: The refused token.

        Returns:
            `True` if the source can give another token.
        """
        if not self._source.renews:
            return False
        audience = self._source.audience(resource)
        with self._lock:
            entry = self._entries.get(audience)
            if entry is not None and entry.token.header == header:
                self._refused.add(audience)
                del self._entries[audience]
        return True

    def after_fork(self) -> None:
        """In a forked child: forget the fetches of the parent's threads."""
        self._lock = threading.RLock()
        self._fetches = {}
