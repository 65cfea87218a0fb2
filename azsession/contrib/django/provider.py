"""`get_provider` and `close_provider`: the provider of this process."""

from __future__ import annotations

from typing import Any

from django.core.signals import setting_changed

from ...client.provider import ServiceBusProvider
from ..process_provider import ProcessProvider
from .setting import NAME, read_setting

_of_process = ProcessProvider(read_setting)


def get_provider() -> ServiceBusProvider:
    """Return this process's provider. The first call makes it from ``settings.AZSESSION``. Makes no connection.

    It is closed when the process ends: do not close it. A forked process makes its own. In tests, call this after each change
    of the setting, because `override_settings` closes the provider. Safe to call from many threads.

    Raises:
        ConfigurationError: The setting is wrong, or another process has the file of the embedded broker open.
    """
    return _of_process.get()


def close_provider() -> None:
    """Close this process's provider and its sessions, if there is one. An embedded broker in memory is lost with it.

    The next `get_provider` makes another provider. Use it in tests, so that each test begins with an empty broker.
    """
    _of_process.close()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == NAME:
        _of_process.close()


setting_changed.connect(_on_setting_changed, dispatch_uid="azsession.contrib.django")
