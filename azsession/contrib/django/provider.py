"""The provider of this process, made from the setting when it is first asked for."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from ... import forks
from ...client.provider import ServiceBusProvider
from .setting import NAME, read


class _Kept:
    """The provider that `get_provider` gives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _provider. Making one does no I/O but for opening an embedded broker's file.
        self._provider: ServiceBusProvider | None = None

    def get(self) -> ServiceBusProvider:
        # Without the lock, as it is asked for all the time.
        provider = self._provider
        if provider is not None:
            return provider
        with self._lock:
            if self._provider is None:
                self._provider = read(getattr(settings, NAME, None)).provider()
            return self._provider

    def close(self) -> None:
        with self._lock:
            provider, self._provider = self._provider, None
        if provider is not None:
            provider.close()

    def after_fork(self) -> None:
        """In a forked child: the lock may have been another thread's. The provider sees to itself."""
        self._lock = threading.Lock()


_kept = _Kept()
forks.register(_kept)
atexit.register(_kept.close)


def get_provider() -> ServiceBusProvider:
    """Return this process's provider, made from ``settings.AZSESSION`` when it is first asked for.

    It is closed when the process ends: do not close it, and do not keep it where `override_settings` shall take effect. A
    process that is forked later goes on with it, on connections of its own. Safe to call from many threads; it makes no
    connection.

    Raises:
        ConfigurationError: The setting is wrong, or an embedded broker's file is open elsewhere.
    """
    return _kept.get()


def close_provider() -> None:
    """Close this process's provider, if it has one; `get_provider` makes another one. An embedded broker goes with it.

    For tests, so that each begins with an empty broker.
    """
    _kept.close()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == NAME:
        _kept.close()


setting_changed.connect(_on_setting_changed, dispatch_uid="azsession.contrib.django")
