"""The options of `azsession serve` about metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

T = TypeVar("T", bound=Callable[..., Any])


def metrics_options(command: T) -> T:
    """Give a click command the options of the port for metrics."""
    command = click.option(
        "--metrics-host",
        default="127.0.0.1",
        show_default=True,
        metavar="ADDRESS",
        help="Address of --metrics-port. Everyone who can reach it can read the metrics.",
    )(command)
    return click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        help="Serve the metrics on this port, too, without a key; 0 takes a free one. They are always at /metrics of the "
        "gateway, for keys with the right Metrics.",
    )(command)
