"""azsession in Flask: one provider for each app and process, and ``flask azsession consume``. Needs the extra ``flask``.

Applications use `AzSession` and `current_provider`. The settings are in `app.config`, and their names begin with
``AZSESSION_``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from .._extras import need
from ..client.provider import ServiceBusProvider
from ..errors import ConfigurationError
from ..processor import SessionProcessor
from ..processor.options import Handler, ProcessorArguments
from .consume_options import DESCRIPTION, OPTIONS, Kind
from .consume_run import ConsumeError, run_processor, summary
from .process_provider import ProcessProvider
from .provider_setting import ProviderSetting, Style, read

need("flask", "flask")

import click  # noqa: E402
from flask import Flask, current_app, has_app_context  # noqa: E402
from flask.cli import AppGroup  # noqa: E402
from werkzeug.local import LocalProxy  # noqa: E402

from .consume_click import click_error, processor_options  # noqa: E402

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AzSession", "current_provider"]

P = ParamSpec("P")
T = TypeVar("T")

#: The name in `app.extensions`, and of the group of commands.
NAME = "azsession"
STYLE = Style("app.config", prefix="AZSESSION_", upper=True, is_embedded_alone=False, imports_credential=False)


class AzSession:
    """The Flask extension. Gives each app a `ServiceBusProvider` of its own and the command ``flask azsession consume``.

    One instance serves any number of apps, because it keeps no state of an app. Create it beside the application factory:

        azsession = AzSession()

        def create_app():
            app = Flask(__name__)
            azsession.init_app(app)
            return app

    The provider is made at its first use, without a connection, and closed when the process ends. A forked child makes its
    own.

    Args:
        app: Passed to `init_app`. This app is also used where there is no application context.

    Raises:
        ConfigurationError: A setting's name or value is wrong, or the app has an `AzSession` already.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._app = app
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Check the app's settings and add the extension to the app. Makes no connection.

        Settings can change until the first use of the provider, which checks them again.

        Args:
            app: The app.

        Raises:
            ConfigurationError: A setting's name or value is wrong, or the app has an `AzSession` already.
        """
        if NAME in app.extensions:
            raise ConfigurationError(f"the app {app.name!r} already has an AzSession: call init_app once for each app")
        _read(app.config).check()
        app.extensions[NAME] = ProcessProvider(lambda: _read(app.config))
        app.cli.add_command(_commands)

    @property
    def provider(self) -> ServiceBusProvider:
        """The current app's provider. Unlike `current_provider`, it can be passed to other threads.

        Raises:
            ConfigurationError: The settings are wrong, or do not say where the messages are.
            RuntimeError: There is no application context.
        """
        return _provider_of(self._current_app()).get()

    def handler(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return `function` so that each call has its own application context of the current app.

        Teardown functions run after each call, before its message is completed. Use it for a `SessionProcessor` that you
        create yourself. `processor` and ``flask azsession consume`` do so themselves. The function can be a coroutine
        function if Flask has its extra ``async``.

        Args:
            function: A handler or a hook.

        Raises:
            RuntimeError: There is no application context.
        """
        return _in_context(self._current_app(), function)

    def processor(self, queue_name: str, handler: Handler, **options: Unpack[ProcessorArguments]) -> SessionProcessor:
        """Return a `SessionProcessor` with the current app's provider. Its handler and hooks have an application context.

        Args:
            queue_name: The queue, or ``topic/subscriptions/name``.
            handler: Called with each message and its session.
            options: The keyword arguments of `SessionProcessor`.

        Raises:
            ConfigurationError: The settings are wrong, or do not say where the messages are.
            ValidationError: An argument is wrong.
            RuntimeError: There is no application context.
        """
        return _make_processor(self._current_app(), queue_name, handler, options)

    def close(self, app: Flask | None = None) -> None:
        """Close the provider of an app and its sessions. Idempotent.

        The next use makes another provider from the settings. The end of the process closes all providers.

        Args:
            app: The app. By default the current app.

        Raises:
            ConfigurationError: The app has no `AzSession`.
            RuntimeError: No app is given, and there is no application context.
        """
        _provider_of(self._current_app() if app is None else app).close()

    def _current_app(self) -> Flask:
        if self._app is not None and not has_app_context():
            return self._app
        return _current_app()


def _current_app() -> Flask:
    return cast("Flask", current_app._get_current_object())  # type: ignore[attr-defined]


def _provider_of(app: Flask) -> ProcessProvider:
    known = app.extensions.get(NAME)
    if not isinstance(known, ProcessProvider):
        raise ConfigurationError(f"the app {app.name!r} has no AzSession: call AzSession(app), or init_app(app) on one")
    return known


#: The current app's `ServiceBusProvider`. Like `flask.current_app`, it needs an application context.
current_provider: ServiceBusProvider = cast("ServiceBusProvider", LocalProxy(lambda: _provider_of(_current_app()).get()))


def _read(config: Mapping[str, object]) -> ProviderSetting:
    """Read the app's settings. ``AZSESSION_EMBEDDED = False`` is the same as no such setting."""
    given = {name: value for name, value in config.items() if name.startswith(STYLE.prefix)}
    embedded = STYLE.key("embedded")
    if given.get(embedded) is False:
        del given[embedded]
    return read(given, STYLE)


# Handlers

_HOOKS = tuple(option.name for option in OPTIONS if option.kind is Kind.FUNCTION)


def _in_context(app: Flask, function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` with an application context around each call. A function that already has one stays as it is."""
    if getattr(function, "_azsession_app", None) is app:
        return function
    call = app.ensure_sync(function)

    @functools.wraps(function)
    def in_context(*args: P.args, **kwargs: P.kwargs) -> T:
        with app.app_context():
            return cast("T", call(*args, **kwargs))

    in_context._azsession_app = app  # type: ignore[attr-defined]
    return in_context


def _make_processor(app: Flask, queue_name: str, handler: Handler, options: Mapping[str, Any]) -> SessionProcessor:
    hooks = {name: _in_context(app, hook) for name, hook in options.items() if name in _HOOKS and callable(hook)}
    # A handler that cannot be called is left to the checks of SessionProcessor.
    in_context = _in_context(app, handler) if callable(handler) else handler
    return SessionProcessor(_provider_of(app).get(), queue_name, in_context, **{**options, **hooks})


# Commands

_commands = AppGroup(NAME, help="Message sessions of Azure Service Bus.")


@_commands.command(
    "consume",
    short_help="Call a function for the messages of many sessions.",
    help="Call MODULE:FUNCTION with each message of QUEUE and its session. Each call has its own application context.\n\n"
    + DESCRIPTION,
)
@processor_options
def _consume(
    queue: str, handler: Handler, session_ids: Sequence[str], metrics_host: str, metrics_port: int | None, **options: Any
) -> None:
    app = _current_app()
    try:
        run_processor(
            queue,
            lambda: _make_processor(app, queue, handler, {**options, "session_ids": session_ids or None}),
            note=lambda text: click.echo(text, err=True),
            show=lambda stats: click.echo(f"{queue}: {summary(stats)}"),
            metrics_host=metrics_host,
            metrics_port=metrics_port,
        )
    except ConsumeError as error:
        raise click_error(error) from error
    finally:
        _provider_of(app).close()
