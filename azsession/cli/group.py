"""The commands put together, and the one place where their failures become a line and an exit status."""

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
FAILED, USED_WRONGLY, INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="azsession")
def cli() -> None:
    """Message sessions of Azure Service Bus: a gateway with a broker of its own, and a client for any gateway.

    The commands that talk to a gateway take its connection string from --connection-string or from
    SERVICEBUS_CONNECTION_STRING. With --json they print one JSON object for each thing they show, one a line.
    """


for _command in (demo, serve, send, receive, consume, celery_dispatch, peek, sessions, dead_letters, queue):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status. Failures are one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows a stand-in, rather than a failure.
            stream.reconfigure(errors="replace")
    logging.basicConfig(format="azsession: %(message)s")
    # azure-identity reports at length what our one line says.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    try:
        status = cli.main(arguments, prog_name="azsession", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        command = "azsession" if error.ctx is None else error.ctx.command_path
        _complain(f"{error.format_message()} (see {command} --help)")
        return USED_WRONGLY
    except click.Abort:
        return INTERRUPTED
    except (click.ClickException, QueueError) as error:
        _complain(error.format_message() if isinstance(error, click.ClickException) else str(error))
        return FAILED
    except OSError as error:
        return _on_os_error(error)
    except SystemExit as error:
        # How click and rich end where nobody reads what they print.
        _forget_output()
        return error.code if isinstance(error.code, int) else FAILED
    return status if isinstance(status, int) else 0


def _on_os_error(error: OSError) -> int:
    _forget_output()
    if error.errno != errno.EPIPE:
        _complain(str(error))
    return FAILED


def _complain(text: str) -> None:
    try:
        click.echo("azsession: " + printable(" ".join(text.split())), err=True)
    except OSError:
        _forget_output()


def _forget_output() -> None:
    """Let what could not be written go: the interpreter would try, and fail, again at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    except OSError:
        pass
