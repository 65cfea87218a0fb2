"""`ProcessProvider`: one provider for each process, made at its first use and closed at the process's end.

The Celery, Django and Flask integrations keep their providers in it.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future

from .. import forks
from ..client.provider import ServiceBusProvider
from .provider_setting import ProviderSetting


class ProcessProvider:
    """Makes this process's provider at its first use. One thread makes it, and the others wait for it.

    A forked child makes a provider of its own. An embedded broker stays the parent's: in a child, its provider raises
    `ConfigurationError`, because a second broker would not have the first one's messages.

    Args:
        read: Returns the settings to make the provider from.
    """

    def __init__(self, read: Callable[[], ProviderSetting]) -> None:
        self._read = read
        self._lock = threading.Lock()  # Guards the three attributes below.
        self._making: Future[ServiceBusProvider] | None = None
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
        making = Future[ServiceBusProvider]()
        with self._lock:
            if self._provider is not None:
                return self._provider
            others = self._making
            if others is None:
                self._making = making
        return self._make(making) if others is None else others.result()

    def _make(self, making: Future[ServiceBusProvider]) -> ServiceBusProvider:
        try:
            setting = self._read()
            provider = setting.make_provider()
        except BaseException as error:
            with self._lock:
                self._making = None
            making.set_exception(error)
            raise
        with self._lock:
            self._making, self._provider, self._is_embedded = None, provider, setting.embedded is not None
        # Functions registered last run first, and connection pools register their own when the provider is made.
        atexit.register(provider.close)
        making.set_result(provider)
        return provider

    def close(self) -> None:
        """Close the provider and its sessions. The next `get` makes another provider. Idempotent.

        If another thread is making the provider, this waits for that thread.
        """
        with self._lock:
            making = self._making
        if making is not None:
            making.exception()
        with self._lock:
            provider, self._provider = self._provider, None
        if provider is not None:
            atexit.unregister(provider.close)
            provider.close()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's provider, unless its broker is embedded."""
        self._lock = threading.Lock()
        self._making = None
        if self._provider is not None and not self._is_embedded:
            atexit.unregister(self._provider.close)
            self._provider = None
