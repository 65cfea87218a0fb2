"""The `azsession` command group. Turns every failure of a command into one line on stderr and an exit status."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from ..errors import QueueError
from .celery_dispatch import celery_dispatch
from .common import printable
from .consume import consume
from .demo.command import demo
from .messages import peek, receive, send
from .queues import dead_letters, queue, sessions
from .serve import serve

#: Exit statuses.
FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="azsession")
def cli() -> None:
    """Work with the message sessions of Azure Service Bus, or run a gateway that serves them.

    To begin, run "azsession demo", or start a gateway with "azsession serve --auto-create". The other commands connect to
    the gateway, or to Azure, with the connection string in --connection-string or SERVICEBUS_CONNECTION_STRING. With --json
    they print JSON, one object a line.
    """


for _command in (demo, serve, send, receive, consume, celery_dispatch, peek, sessions, dead_letters, queue):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. A failure prints one line on stderr.

    Args:
        arguments: The words after ``azsession``; by default those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character shows a replacement for it.
            stream.reconfigure(errors="replace")
    logging.basicConfig(format="azsession: %(message)s")
    # azure-identity logs at length each error that the command reports in one line.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    try:
        status = cli.main(arguments, prog_name="azsession", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        command = "azsession" if error.ctx is None else error.ctx.command_path
        _print_error(f"{error.format_message()} (see {command} --help)")
        return WRONG_USAGE
    except click.Abort:
        return INTERRUPTED
    except (click.ClickException, QueueError) as error:
        _print_error(error.format_message() if isinstance(error, click.ClickException) else str(error))
        return FAILED
    except OSError as error:
        return _on_os_error(error)
    except SystemExit as error:
        # click and rich exit this way when the reader of stdout has gone.
        _discard_output()
        return error.code if isinstance(error.code, int) else FAILED
    return status if isinstance(status, int) else 0


def _on_os_error(error: OSError) -> int:
    _discard_output()
    if error.errno != errno.EPIPE:
        _print_error(str(error))
    return FAILED


def _print_error(text: str) -> None:
    try:
        click.echo("azsession: " + printable(" ".join(text.split())), err=True)
    except OSError:
        _discard_output()


def _discard_output() -> None:
    """Send unwritten output to the null device. Otherwise the interpreter fails to flush it at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        pass
