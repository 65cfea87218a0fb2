"""The `azsession` command group. Turns every failure of a command into one line on stderr and an exit status."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from .. import __version__
from ..errors import QueueError
from . import INTERRUPTED
from .backup import backup
from .celery_dispatch import celery_dispatch
from .common import CommandGroup, MissingCommandError, printable
from .consume import consume
from .dead_letters import dead_letters
from .demo.command import demo
from .export import export
from .importing import import_lines
from .key import key
from .log_output import is_json, log_output, logger
from .messages import peek, receive
from .process import exiting_signals
from .queues import queue, sessions
from .schedule import cancel, purge, schedule
from .send import send
from .serve import serve
from .streams import discard_output, prepare_streams
from .top.command import top

#: Exit statuses.
FAILED, WRONG_USAGE = 1, 2


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="azsession")
def cli() -> None:
    """Work with the message sessions of Azure Service Bus, or run a gateway that serves them.

    To begin, run "azsession demo", or start a gateway with "azsession serve --auto-create". The other commands connect to
    the gateway, or to Azure, with the connection string in --connection-string or SERVICEBUS_CONNECTION_STRING. With --json
    they print JSON, one object a line.
    """


_COMMANDS = (
    *(demo, serve, send, schedule, cancel, receive, consume, celery_dispatch),
    *(top, peek, sessions, dead_letters, purge, queue, backup, export, import_lines, key),
)
for _command in _COMMANDS:
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. A failure prints one line on stderr.

    SIGTERM and SIGHUP end the command like Ctrl-C: it closes what it has open, so that its sessions are released.

    Args:
        arguments: The words after ``azsession``; by default those of this process.
    """
    prepare_streams()
    with log_output():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with exiting_signals():
            status = cli.main(arguments, prog_name="azsession", standalone_mode=False)
            sys.stdout.flush()
    except click.UsageError as error:
        return _on_usage_error(error)
    except click.Abort:
        return INTERRUPTED
    except (click.ClickException, QueueError) as error:
        _print_error(error.format_message() if isinstance(error, click.ClickException) else str(error))
        return FAILED
    except OSError as error:
        return _on_os_error(error)
    except SystemExit as error:
        # click and rich exit this way when the reader of stdout has gone, and signals end a command this way.
        discard_output()
        return error.code if isinstance(error.code, int) else FAILED
    return status if isinstance(status, int) else 0


def _on_usage_error(error: click.UsageError) -> int:
    if isinstance(error, MissingCommandError):
        with suppress(OSError):
            click.echo(error.format_message(), err=True)
        return WRONG_USAGE
    command = "azsession" if error.ctx is None else error.ctx.command_path
    _print_error(f"{error.format_message()} (see {command} --help)")
    return WRONG_USAGE


def _on_os_error(error: OSError) -> int:
    discard_output()
    if error.errno != errno.EPIPE:
        reason = error.strerror or str(error)
        _print_error(reason if error.filename is None else f"{error.filename}: {reason}")
    return FAILED


def _print_error(text: str) -> None:
    if is_json():
        logger.error("%s", " ".join(text.split()))
        return
    try:
        click.echo("azsession: " + printable(" ".join(text.split())), err=True)
    except OSError:
        discard_output()
