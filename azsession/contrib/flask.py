"""azsession in Flask: a provider for each app and process, configured in `app.config`, and `flask azsession consume`.

Applications use `AzSession` and `current_provider`. Needs the extra ``flask``.
"""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from .._extras import need
from ..client.provider import ServiceBusProvider
from ..config import ServiceBusConfig
from ..errors import ConfigurationError, QueueError
from ..processor import SessionProcessor
from .process_provider import FIELDS, MEMORY, PLACES, TEXTS, KeptProvider, ProviderSetting, kind_of

need("flask", "flask")

import click  # noqa: E402
from flask import Flask, current_app, has_app_context  # noqa: E402
from flask.cli import AppGroup  # noqa: E402
from werkzeug.local import LocalProxy  # noqa: E402

from .consume_options import processor_options  # noqa: E402

__all__ = ["AzSession", "current_provider"]

P = ParamSpec("P")
T = TypeVar("T")

#: The name in `app.extensions`, and of the commands.
NAME = "azsession"
#: What the settings in `app.config` begin with.
PREFIX = "AZSESSION_"

_NAMES = tuple(PREFIX + name.upper() for name in (*FIELDS, "credential", "embedded"))
#: What of a processor calls the user's code.
_HOOKS = ("on_error", "on_session_opened", "on_session_closed")


class AzSession:
    """The extension: gives each of its apps a `ServiceBusProvider` of its own, and the command `flask azsession consume`.

    It keeps nothing itself, so that one instance, made beside the application factory, serves any number of apps. The
    provider is made where it is first used, anew in a forked child, and closed when the process ends.

    Args:
        app: Calls `init_app`, and is the app that is meant where there is no application context.

    Raises:
        ConfigurationError: As `init_app` does.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._app = app
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Check the app's settings, and set it up. Nothing is connected to yet.

        Settings may still change until the provider is first used; they are checked again then.

        Raises:
            ConfigurationError: A setting's name or value is wrong, or the app was set up before.
        """
        if NAME in app.extensions:
            raise ConfigurationError(f"the app {app.name!r} has an AzSession already")
        _read(app.config)
        app.extensions[NAME] = KeptProvider(lambda: _read(app.config), _nowhere)
        app.cli.add_command(_commands)

    @property
    def provider(self) -> ServiceBusProvider:
        """The current app's provider; unlike `current_provider` the thing itself, which other threads can use too.

        Raises:
            ConfigurationError: The settings do not say where to connect to, or are wrong.
            RuntimeError: There is no application context.
        """
        return _of(self._current_app()).get()

    def handler(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return `function` with an application context of the current app, pushed and popped for each call.

        So teardown functions run after each message, and before it is completed. For a `SessionProcessor` made by hand:
        `processor` and ``flask azsession consume`` do it by themselves.

        Raises:
            RuntimeError: There is no application context now.
        """
        return _in_context(self._current_app(), function)

    def processor(self, queue_name: str, handler: Callable[..., object], **options: Any) -> SessionProcessor:
        """Return a `SessionProcessor` on the current app's provider, its handler and hooks each with a context of the app.

        Args:
            queue_name: The queue.
            handler: Called with a message and its session.
            options: Those of `SessionProcessor`.

        Raises:
            QueueError: A setting or an option is wrong.
            RuntimeError: There is no application context now.
        """
        return _make_processor(self._current_app(), queue_name, handler, options)

    def close(self, app: Flask | None = None) -> None:
        """Close the provider of an app, by default the current one's, and thereby its open sessions. Idempotent.

        The next use makes a new one, from the settings of then. The end of the process closes all by itself.
        """
        _of(self._current_app() if app is None else app).close()

    def _current_app(self) -> Flask:
        if self._app is not None and not has_app_context():
            return self._app
        return _current_app()


def _current_app() -> Flask:
    return cast("Flask", current_app._get_current_object())  # type: ignore[attr-defined]


def _of(app: Flask) -> KeptProvider:
    known = app.extensions.get(NAME)
    if not isinstance(known, KeptProvider):
        raise ConfigurationError(f"the app {app.name!r} has no AzSession: call AzSession(app), or init_app(app) on one")
    return known


#: The current app's `ServiceBusProvider`, as long as there is an application context.
current_provider: ServiceBusProvider = cast("ServiceBusProvider", LocalProxy(lambda: _of(_current_app()).get()))


# Settings


def _read(config: Mapping[str, Any]) -> ProviderSetting:
    """Return what `app.config` says.

    Raises:
        ConfigurationError: A setting is wrong; a name that is not known brings what may have been meant.
    """
    given = {name: value for name, value in config.items() if name.startswith(PREFIX)}
    for name in given:
        if name not in _NAMES:
            # By what is not the same in all.
            close = difflib.get_close_matches(name[len(PREFIX) :], [known[len(PREFIX) :] for known in _NAMES], 1)
            meant = f"did you mean {PREFIX}{close[0]}?" if close else f"there are {', '.join(sorted(_NAMES))}"
            raise ConfigurationError(f"app.config has {name}, which is no setting of azsession: {meant}")
    values = {name[len(PREFIX) :].lower(): value for name, value in given.items() if value is not None}
    credential, embedded = _credential(values.pop("credential", None)), _embedded(values.pop("embedded", None))
    _check_types(values)
    # Where nothing says yet where to connect to, the rest is checked all the same.
    elsewhere: dict[str, Any] = {} if any(name in values for name in PLACES) else {"namespace": "any"}
    try:
        ServiceBusConfig(**elsewhere, **values)
    except QueueError as error:
        raise ConfigurationError(f"the {PREFIX} settings in app.config: {error}") from None
    return ProviderSetting(values, credential, embedded)


def _nowhere(error: ConfigurationError) -> ConfigurationError:
    names = ", ".join(PREFIX + name.upper() for name in (*PLACES, "embedded"))
    return ConfigurationError(f"app.config has none of {names}, nor does the environment help: {error}")


def _credential(value: Any) -> Any:
    if value is None or callable(value) or callable(getattr(value, "get_token", None)):
        return value
    raise ConfigurationError(
        f"{PREFIX}CREDENTIAL is a TokenCredential, or what makes one, such as DefaultAzureCredential, not {kind_of(value)}"
    )


def _embedded(value: Any) -> str | None:
    if value is None or value is False or value == "":
        return None
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(cast("str | os.PathLike[str]", value))
    raise ConfigurationError(f"{PREFIX}EMBEDDED is {MEMORY!r} or the path of a file, not {kind_of(value)}")


def _check_types(values: dict[str, Any]) -> None:
    """Refuse what `ServiceBusConfig` would take for something else, such as the text ``"false"`` for yes."""
    for name in TEXTS:
        value = values.get(name)
        if name == "ca_bundle" and isinstance(value, os.PathLike):
            values[name] = os.fspath(value)
        elif value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{PREFIX}{name.upper()} is a text, not {kind_of(value)}")
    insecure = values.get("allow_insecure_http", False)
    if not isinstance(insecure, bool):
        raise ConfigurationError(f"{PREFIX}ALLOW_INSECURE_HTTP is True or False, not {kind_of(insecure)}")


# Handlers


def _in_context(app: Flask, function: Callable[P, T]) -> Callable[P, T]:
    if getattr(function, "_azsession_app", None) is app:
        return function
    call = app.ensure_sync(function)

    @functools.wraps(function)
    def in_context(*args: P.args, **kwargs: P.kwargs) -> T:
        with app.app_context():
            return cast("T", call(*args, **kwargs))

    in_context._azsession_app = app  # type: ignore[attr-defined]
    return in_context


def _make_processor(
    app: Flask, queue_name: str, handler: Callable[..., object], options: Mapping[str, Any]
) -> SessionProcessor:
    hooks = {name: _in_context(app, options[name]) for name in _HOOKS if callable(options.get(name))}
    wrapped = _in_context(app, handler) if callable(handler) else handler
    return SessionProcessor(_of(app).get(), queue_name, wrapped, **{**options, **hooks})


# Commands

_commands = AppGroup(NAME, help="Message sessions of Azure Service Bus.")


@_commands.command("consume", short_help="Call a function for the messages of many sessions.")
@processor_options
def _consume(queue: str, handler: Callable[..., object], session_ids: Sequence[str], **options: Any) -> None:
    """Call MODULE:FUNCTION with each message of QUEUE, and its session: many sessions at once, each in order.

    Each call has an application context of its own. Where it returns, the message is completed. SIGTERM and Ctrl-C let it
    finish what it has in hand, and release all sessions; a second one gives up what still runs.
    """
    app = _current_app()
    try:
        processor = _make_processor(app, queue, handler, {"session_ids": session_ids or None, **options})
        click.echo(f"consuming {queue}; Ctrl-C ends it", err=True)
        processor.run()
    except QueueError as error:
        raise click.ClickException(str(error)) from None
    finally:
        _of(app).close()
    stats = processor.stats
    click.echo(
        f"{queue}: {stats.messages_done} done, {stats.messages_failed} failed, "
        f"{stats.messages_dead_lettered} dead-lettered, in {stats.sessions_done} sessions"
    )
    if stats.sessions_open:
        click.echo(f"given up while their handlers ran: {stats.sessions_open} sessions", err=True)
        click.get_current_context().exit(1)
