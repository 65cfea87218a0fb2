"""The options of `azsession serve` for its AMQP endpoint."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import attrs
import click

from ..config import is_loopback

F = TypeVar("F", bound="Callable[..., Any]")

#: The port of AMQP without TLS. It is taken if it is free.
USUAL_PORT = 5672


@attrs.frozen
class AmqpOptions:
    """`port` is the value of ``--amqp-port``, and `is_off` says whether ``--no-amqp`` was given."""

    port: int | None
    is_off: bool

    def check(self, azure_option: str | None) -> None:
        """Raise `click.UsageError` if the options contradict each other or `azure_option`, an option for Azure."""
        if self.port is not None and self.is_off:
            raise click.UsageError("give --amqp-port or --no-amqp, not both")
        if self.port is not None and azure_option is not None:
            raise click.UsageError(f"--amqp-port cannot be used with {azure_option}: Azure speaks AMQP itself")

    def chosen_port(self, host: str, *, is_azure: bool) -> int | None:
        """Return the port of the endpoint, 0 for any free one, `None` for no endpoint.

        Without options, there is an endpoint on a loopback address, at the usual port if that is free.
        """
        if self.port is not None:
            return self.port
        if self.is_off or is_azure or not is_loopback(host):
            return None
        return USUAL_PORT if _is_free(host, USUAL_PORT) else 0


def _is_free(host: str, port: int) -> bool:
    with suppress(OSError):
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        return True
    return False


def amqp_options(command: F) -> F:
    """Add the options to a command."""
    port = click.option(
        "--amqp-port",
        type=click.IntRange(0, 65535),
        help=f"Port of the AMQP endpoint for Azure's SDKs; 0 takes a free one. Default: {USUAL_PORT} if it is free, else a "
        "free one, on a loopback address; otherwise no endpoint.",
    )
    return port(click.option("--no-amqp", is_flag=True, help="Do not serve AMQP.")(command))
