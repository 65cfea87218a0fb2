"""`ProcessProvider`: one provider for each process, made at its first use and closed at the process's end.

The Celery, Django and Flask integrations keep their providers in it.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable

from .. import forks
from ..client.provider import ServiceBusProvider
from ..events import Event
from .provider_setting import ProviderSetting


class _Making:
    """The making of the provider in one thread. Other threads wait for it."""

    def __init__(self) -> None:
        self.thread: int = threading.get_ident()
        self.ended: Event = Event()
        self.error: BaseException | None = None


class ProcessProvider:
    """Makes this process's provider at its first use. One thread makes it, and the others wait for it.

    A forked child makes a provider of its own. An embedded broker stays the parent's: in a child, its provider raises
    `ConfigurationError`, because a second broker would not have the first one's messages.

    Args:
        read: Returns the settings to make the provider from.
    """

    def __init__(self, read: Callable[[], ProviderSetting]) -> None:
        self._read = read
        # Guards the three attributes below. A signal handler may use the provider while its thread holds the lock.
        self._lock = threading.RLock()
        self._making: _Making | None = None
        self._provider: ServiceBusProvider | None = None
        self._is_embedded = False
        forks.register(self)

    def get(self) -> ServiceBusProvider:
        """Return the provider. Makes no connection.

        Raises:
            ConfigurationError: The settings are wrong. The next call reads them again.
        """
        provider = self._provider
        if provider is not None:
            return provider  # Without the lock, because every request calls this.
        own = _Making()
        try:
            with self._lock:
                if self._provider is not None:
                    return self._provider
                others = self._making
                # A making of this same thread was interrupted.
                if others is None or others.thread == own.thread:
                    self._making = own
            if self._making is own:
                return self._make()
        except BaseException as error:
            own.error = error
            raise
        finally:
            if self._making is own:
                self._making = None
            own.ended.set()
        if others is not None:
            others.ended.wait()
            if others.error is not None:
                raise others.error
        return self.get()

    def _make(self) -> ServiceBusProvider:
        setting = self._read()
        provider = setting.make_provider()
        # Functions registered last run first, and connection pools register their own when the provider is made.
        atexit.register(provider.close)
        with self._lock:
            self._provider, self._is_embedded = provider, setting.embedded is not None
        return provider

    def close(self) -> None:
        """Close the provider and its sessions. The next `get` makes another provider. After an interrupt, it can be repeated.

        If another thread is making the provider, this waits for that thread.
        """
        making = self._making
        if making is not None and making.thread != threading.get_ident():
            making.ended.wait()
        with self._lock:
            provider, self._provider = self._provider, None
        if provider is not None:
            try:
                provider.close()
            except BaseException:
                with self._lock:
                    self._provider = self._provider or provider
                raise
            atexit.unregister(provider.close)

    def after_fork(self) -> None:
        """In a forked child: forget the parent's provider, unless its broker is embedded."""
        self._lock = threading.RLock()
        self._making = None
        if self._provider is not None and not self._is_embedded:
            atexit.unregister(self._provider.close)
            self._provider = None
