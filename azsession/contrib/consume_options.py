"""The options of a command that runs a `SessionProcessor`: of `azsession consume`, and of Flask's. Needs click alone."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

T = TypeVar("T", bound=Callable[..., Any])


class Function(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A function, given as ``module:function``; the module may lie in the current directory."""

    name = "module:function"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        module_name, _, path = str(value).partition(":")
        if not module_name or not path:
            self.fail(f"{value!r} is not of the form module:function", param, ctx)
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            found: Any = importlib.import_module(module_name)
            for name in path.split("."):
                found = getattr(found, name)
        except Exception as error:
            self.fail(f"{value!r} cannot be imported: {type(error).__name__}: {error}", param, ctx)
        if not callable(found):
            self.fail(f"{value!r} is a {type(found).__name__}, nothing to call", param, ctx)
        return found


_SECONDS = click.FloatRange(0)

_PARAMETERS = (
    click.argument("queue"),
    click.argument("handler", type=Function(), metavar="MODULE:FUNCTION"),
    click.option(
        "--max-concurrent-sessions", type=click.IntRange(1), default=8, show_default=True, help="Sessions handled at once."
    ),
    click.option(
        "--session-ids", "--session-id", multiple=True, metavar="ID", help="Take this session only. Repeat it for more."
    ),
    click.option("--max-messages-per-session", type=click.IntRange(1), help="Messages after which a session is released."),
    click.option(
        "--session-idle-timeout",
        type=_SECONDS,
        default=0.0,
        show_default=True,
        help="Seconds to stay in a session that ran empty.",
    ),
    click.option("--prefetch", type=click.IntRange(1, 1000), default=10, show_default=True, help="Messages in one request."),
    click.option("--max-renewal", type=_SECONDS, help="Seconds after which a session's lock is renewed no more."),
    click.option(
        "--grace-period",
        type=_SECONDS,
        default=30.0,
        show_default=True,
        help="Seconds that handlers get to finish at the end.",
    ),
    click.option("--on-error", type=Function(), help="Called with an error, and with its session and message, or None."),
    click.option("--on-session-opened", type=Function(), help="Called with a session before its first message."),
    click.option("--on-session-closed", type=Function(), help="Called with a session after its release."),
)


def processor_options(command: T) -> T:
    """Give a command a queue, a handler, and the options of `SessionProcessor`, under their names there."""
    for parameter in reversed(_PARAMETERS):
        command = parameter(command)
    return command
