"""The provider of a Celery app in this process, and the end of a worker.

Session tasks, the dispatcher and `settle_on_success` use it. Applications call `current_provider` and `close_provider`.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Mapping

from celery import Celery, signals
from celery._state import get_current_app, get_current_task

from ...client.provider import ServiceBusProvider
from ...events import Event
from ..process_provider import ProcessProvider
from ..provider_setting import ProviderSetting, Style, read

#: The name of the setting in `app.conf`.
NAME = "azsession"
STYLE = Style(f"app.conf.{NAME}")


def current_provider(app: Celery | None = None) -> ServiceBusProvider:
    """Return this process's provider for a Celery app. Makes no connection.

    The first call in a process makes the provider from ``app.conf.azsession``. A forked process makes its own. It is closed
    when the process ends: do not close it. Safe to call from many threads.

    Args:
        app: The app. By default the app of the running task, or the current app outside of tasks.

    Raises:
        ConfigurationError: The setting is wrong, or does not say where the messages are.
    """
    return _provider_of(app).get()


def close_provider(app: Celery | None = None) -> None:
    """Close this process's provider for an app and its sessions, if there is one. The next use makes another provider.

    Use it in tests. The end of a process closes its providers.

    Args:
        app: The app, as for `current_provider`.
    """
    _provider_of(app).close()


def read_setting(app: Celery) -> ProviderSetting:
    """Return the checked setting ``app.conf.azsession``. Makes no connection."""
    value = app.conf.get(NAME)
    if isinstance(value, Mapping):
        # Keys can be in capitals, so that a Django project can use one dict for both settings.
        value = {str(key).lower(): each for key, each in value.items() if each is not None}
    return read(value, STYLE)


_providers: weakref.WeakKeyDictionary[Celery, ProcessProvider] = weakref.WeakKeyDictionary()


def _provider_of(app: Celery | None) -> ProcessProvider:
    if app is None:
        task = get_current_task()
        app = get_current_app() if task is None else task.app
    found = _providers.get(app)
    if found is not None:
        return found
    reference = weakref.ref(app)  # A strong reference would keep the app alive as a key of the dictionary.
    # If two threads come here, setdefault keeps the first provider.
    return _providers.setdefault(app, ProcessProvider(lambda: read_setting(reference())))


def _close_all(**_: object) -> None:
    for each in list(_providers.values()):
        each.close()


# The children of prefork end without running atexit's functions. The other pools run in the worker's own process.
signals.worker_process_shutdown.connect(_close_all, weak=False, dispatch_uid="azsession.process_shutdown")
signals.worker_shutdown.connect(_close_all, weak=False, dispatch_uid="azsession.shutdown")


# The end of a worker


#: One byte that a worker shares with its forked children: 1 after the shutdown began. Celery sends the children no signal.
_shutdown = mmap.mmap(-1, 1)


def worker_ends() -> bool:
    """Return whether the worker shuts down. Works in the worker's process and in processes forked from it."""
    return _shutdown[0] != 0


class WorkerEnds(Event):
    """An event that is also set while the worker shuts down."""

    def is_set(self) -> bool:
        """Return whether the event was set or the worker shuts down."""
        return super().is_set() or worker_ends()


def _on_worker_init(sender: object = None, **_: object) -> None:
    _shutdown[0] = 0
    app = getattr(sender, "app", None)
    if app is not None:
        read_setting(app).check()  # Celery logs the error of a signal's receiver and goes on.


def _on_shutting_down(**_: object) -> None:
    _shutdown[0] = 1


signals.worker_init.connect(_on_worker_init, weak=False, dispatch_uid="azsession.init")
signals.worker_shutting_down.connect(_on_shutting_down, weak=False, dispatch_uid="azsession.shutting_down")
