"""The provider of a Celery app in this process, made from the app's configuration when it is first asked for."""

from __future__ import annotations

import difflib
import mmap
import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from celery import signals
from celery._state import get_current_app, get_current_task
from celery.utils.imports import symbol_by_name

from ...client.provider import ServiceBusProvider
from ...config import ServiceBusConfig
from ...errors import ConfigurationError, QueueError
from ..process_provider import FIELDS, PLACES, TEXTS, KeptProvider, ProviderSetting, kind_of

#: The name of the setting in `app.conf`.
NAME = "azsession"

_KEYS = (*FIELDS, "credential", "embedded")


def current_provider(app: Any = None) -> ServiceBusProvider:
    """Return this process's provider for a Celery app: by default the current one, in a task the task's own.

    It is made from ``app.conf.azsession`` when it is first asked for, anew in a forked process, and closed when the process
    ends: do not close it. It makes no connection. Safe to call from many threads.

    Raises:
        ConfigurationError: The setting is wrong, or nothing says where to connect to.
    """
    return _kept(app).get()


def close_provider(app: Any = None) -> None:
    """Close this process's provider for an app, if there is one, and thereby its sessions; `current_provider` makes another.

    For tests: processes do it at their end.
    """
    _kept(app).close()


# The setting


def read(app: Any) -> ProviderSetting:
    """Return what ``app.conf.azsession`` says.

    Raises:
        ConfigurationError: It is wrong.
    """
    value = app.conf.get(NAME)
    if isinstance(value, str):
        value = {"connection_string": value}
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise _wrong(f"is a dict or a connection string, not {kind_of(value)}")
    # In capitals too, so that a Django project can give the same dict to both.
    given = {str(key).lower(): each for key, each in value.items() if each is not None}
    for key in given:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            raise _wrong(
                f"has no key {key!r}: " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KEYS)}")
            )
    embedded = _path(given.pop("embedded", None), "embedded")
    credential = _credential(given.pop("credential", None))
    if "ca_bundle" in given:
        given["ca_bundle"] = _path(given["ca_bundle"], "ca_bundle")
    for key in TEXTS:
        if not isinstance(given.get(key, ""), str):
            raise _wrong(f"has a {key!r} that is no text, but {kind_of(given[key])}")
    insecure = given.get("allow_insecure_http", False)
    if not isinstance(insecure, bool):
        raise _wrong(f"has an 'allow_insecure_http' that is neither True nor False, but {kind_of(insecure)}")
    if embedded is not None and given:
        raise _wrong(f"has 'embedded', so that {', '.join(given)} would do nothing")
    # Where nothing says yet where to connect to, the rest is checked all the same.
    elsewhere: dict[str, Any] = {} if any(key in given for key in PLACES) else {"namespace": "any"}
    try:
        ServiceBusConfig(**elsewhere, **given)
    except QueueError as error:
        raise _wrong(f"is wrong: {error}") from None
    return ProviderSetting(given, credential, embedded)


def _nowhere(error: ConfigurationError) -> ConfigurationError:
    return _wrong(f"has none of {', '.join((*PLACES, 'embedded'))}, nor does the environment help: {error}")


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(f"app.conf.{NAME} {text}")


def _path(value: Any, key: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise _wrong(f"has an {key!r} that is no path, but {kind_of(value)}")


def _credential(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = symbol_by_name(value)
        except (ImportError, AttributeError, ValueError) as error:
            raise _wrong(f"has a 'credential' that cannot be imported: {error}") from None
    if value is None or callable(value) or callable(getattr(value, "get_token", None)):
        return value
    raise _wrong(f"has a 'credential' that is neither a TokenCredential nor makes one, but {kind_of(value)}")


# The provider of an app in this process


_all: weakref.WeakKeyDictionary[Any, KeptProvider] = weakref.WeakKeyDictionary()


def _kept(app: Any) -> KeptProvider:
    if app is None:
        task = get_current_task()
        app = get_current_app() if task is None else task.app
    kept = _all.get(app)
    if kept is not None:
        return kept
    known = weakref.ref(app)
    # Of two that are made at once the first one stays.
    return _all.setdefault(app, KeptProvider(lambda: read(known()), _nowhere))


def _close_all(**_: Any) -> None:
    for kept in list(_all.values()):
        kept.close()


# Prefork's children end without `atexit`, and the other pools have no processes of their own.
signals.worker_process_shutdown.connect(_close_all, weak=False, dispatch_uid="azsession.process_shutdown")
signals.worker_shutdown.connect(_close_all, weak=False, dispatch_uid="azsession.shutdown")


# The end of a worker


#: One byte that a worker shares with its forked children, which nobody else tells of the shutdown: 1 once it has begun.
_shutdown = mmap.mmap(-1, 1)


def worker_ends() -> bool:
    """Tell whether the worker whose process this is, or was forked from, shuts down."""
    return _shutdown[0] != 0


class WorkerEnds(threading.Event):
    """An event that is set, too, once the worker whose process this is, or was forked from, shuts down."""

    def is_set(self) -> bool:
        """Tell whether to begin nothing any more."""
        return super().is_set() or worker_ends()


def _on_worker_init(sender: Any = None, **_: Any) -> None:
    _shutdown[0] = 0
    app = getattr(sender, "app", None)
    if app is not None:
        read(app)  # What is wrong with it is in the log from the start; Celery goes on after a signal's error.


def _on_shutting_down(**_: Any) -> None:
    _shutdown[0] = 1


signals.worker_init.connect(_on_worker_init, weak=False, dispatch_uid="azsession.init")
signals.worker_shutting_down.connect(_on_shutting_down, weak=False, dispatch_uid="azsession.shutting_down")
