"""The options of the consuming commands, for click. Used by `azsession consume` and ``flask azsession consume``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .consume_options import METRICS_OPTIONS, OPTIONS, Kind, Option
from .consume_run import USED_WRONGLY, ConsumeError
from .imports import import_function

T = TypeVar("T", bound=Callable[..., Any])


class _Function(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A function, given as ``module:function``. The module may be in the current directory."""

    name = "module:function"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the function, or fail with a usage error."""
        path = str(value)
        if ":" not in path:
            self.fail(f"{path!r} is not of the form module:function", param, ctx)
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            return import_function(path)
        except ImportError as error:
            self.fail(str(error), param, ctx)


def processor_options(command: T) -> T:
    """Give a click command a queue, a handler and all options, under the names of the arguments that they set."""
    for option in reversed(OPTIONS + METRICS_OPTIONS):
        command = click.option(option.name, *option.flags, help=option.help, **_settings(option))(command)
    command = click.argument("handler", type=_Function(), metavar="MODULE:FUNCTION")(command)
    return click.argument("queue")(command)


def _settings(option: Option) -> dict[str, Any]:
    if option.kind is Kind.FUNCTION:
        return {"type": _Function()}
    if option.kind is Kind.FLAG:
        return {"is_flag": True}
    if option.kind is Kind.SESSION_IDS:
        return {"multiple": True, "metavar": "ID"}
    if option.kind is Kind.ADDRESS:
        return {"metavar": "ADDRESS", "default": option.default, "show_default": True}
    if option.kind is Kind.PORT:
        return {"type": click.IntRange(0, option.highest), "metavar": "PORT"}
    number = click.IntRange(option.lowest, option.highest) if option.kind is Kind.COUNT else click.FloatRange(0)
    return {"type": number, "default": option.default, "show_default": option.default is not None}


def click_error(error: ConsumeError) -> click.ClickException:
    """Return the exception that ends a click command with the error's text and exit status."""
    return click.UsageError(str(error)) if error.status == USED_WRONGLY else click.ClickException(str(error))
