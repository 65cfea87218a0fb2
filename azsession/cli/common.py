"""Code that the commands share: the connection options, output for people, and JSON output for scripts."""

from __future__ import annotations

import base64
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .. import errors
from ..client.provider import ServiceBusProvider
from ..config import ENV_CONNECTION_STRING, ENV_GATEWAY_URL, ENV_NAMESPACE, ServiceBusConfig
from ..errors import ConfigurationError, QueueError, ValidationError, revised
from ..messages import PeekedMessage
from ..protocol.attributes import to_json
from ..validation import MAX_SEQUENCE_NUMBER, check_host_name, check_queue_name, check_session_id
from .log_output import is_json, logger

#: Messages in one request. Bounds the memory that a command needs.
PAGE = 100
#: Characters of a message body that a table shows.
PREVIEW = 200

Connect = Callable[[], ServiceBusProvider]


def _checked(check: Callable[[object], str]) -> Callable[[str], str]:
    """Return a type for click that refuses as wrong usage a text that a check refuses."""

    def convert(text: str) -> str:
        try:
            return check(text)
        except ValidationError as error:
            raise click.BadParameter(str(error)) from None

    return convert


#: The types of arguments and options that name a queue, a session or a host.
QUEUE: Callable[[str], str] = _checked(check_queue_name)
SESSION: Callable[[str], str] = _checked(check_session_id)
HOST: Callable[[str], str] = _checked(check_host_name)


class MissingCommandError(click.UsageError):
    """A group was called without a command. Its message is the help of the group."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(ctx.get_help(), ctx=ctx)


class CommandGroup(click.Group):
    """A group whose name alone is wrong usage, and shows the help. The releases of click differ in this."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raise `MissingCommandError` if there are no words."""
        if not args and not ctx.resilient_parsing:
            raise MissingCommandError(ctx)
        return super().parse_args(ctx, args)


@contextmanager
def checked_options() -> Iterator[None]:
    """Turn an error of a value into wrong usage. Inside, only values from the command line are checked."""
    try:
        yield
    except (ValidationError, ConfigurationError) as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def progress_reported(done: Callable[[], str]) -> Iterator[None]:
    """Say how far a command came before it failed or was interrupted.

    Args:
        done: Returns the progress, for example ``2 of 5 dead letters were deleted``.
    """
    try:
        yield
    except QueueError as error:
        raise revised(error, f"{error}; {done()}", accepted=error.accepted) from error.__cause__
    except (KeyboardInterrupt, SystemExit):
        note(f"interrupted: {done()}")
        raise


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the connection options and ``--json`` to a command. The command gets ``connect`` and ``as_json`` instead."""

    @click.option("--connection-string", metavar="TEXT", help=f"Where to connect. Default: {ENV_CONNECTION_STRING}.")
    @click.option("--ca-bundle", type=click.Path(exists=True), help="CA certificates to trust instead of the default ones.")
    @click.option("--allow-insecure-http", is_flag=True, help="Allow http:// to another machine. Tokens are not encrypted.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
    @functools.wraps(command)
    def with_options(
        *args: Any,
        connection_string: str | None,
        ca_bundle: str | None,
        allow_insecure_http: bool,
        **options: Any,
    ) -> None:
        def connect() -> ServiceBusProvider:
            named = (ENV_CONNECTION_STRING, ENV_NAMESPACE, ENV_GATEWAY_URL)
            if connection_string is None and not any(os.environ.get(name) for name in named):
                raise ConfigurationError(
                    f"no connection string: set {ENV_CONNECTION_STRING} to the line that azsession serve prints, or give "
                    "--connection-string"
                )
            with nullcontext() if connection_string is None else checked_options():
                config = ServiceBusConfig.from_env(
                    connection_string=connection_string, ca_bundle=ca_bundle, allow_insecure_http=allow_insecure_http
                )
            return ServiceBusProvider(config)

        command(*args, connect=connect, **options)

    return with_options


#: The option ``--from`` of commands that list messages.
from_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--from",
    "start",
    type=click.IntRange(0, MAX_SEQUENCE_NUMBER),
    default=0,
    metavar="SEQ",
    help="Start at this sequence number.",
)


def each_message(peek: Callable[[int], list[PeekedMessage]], start: int = 0) -> Iterator[PeekedMessage]:
    """Yield messages page by page, until there are no more.

    Args:
        peek: Returns the messages from a sequence number on: one page of them.
        start: The first sequence number.
    """
    while page := peek(start):
        yield from page
        start = page[-1].sequence_number + 1


# For people


def console() -> Console:
    """Return the console for tables on stdout."""
    return Console(highlight=False)


def note(text: str) -> None:
    """Print a line for people on stderr, or log it if the log is JSON. Ignore a closed stderr."""
    if is_json():
        logger.info("%s", text)
        return
    with suppress(OSError):
        click.secho(printable(text), err=True, dim=True)


def printable(text: str) -> str:
    """Return text without terminal control characters, because others wrote the bodies. Newlines and tabs stay."""
    return errors.printable(text, keep="\t\n")


def show_id(session_id: str | None) -> str:
    """Return a session id in one line, as tables show it. The empty id is ``''``."""
    return "" if session_id is None else errors.printable(session_id) or "''"


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[str] = ()) -> None:
    """Print a table. Align the columns in `numbers` to the right.

    On a terminal the table has its width. Otherwise each row is one line, and no value is cut, for the programs that read it.
    """
    right = set(numbers)
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _show_on_terminal(columns, cells, right)
    else:
        _show_in_full(columns, cells, right)


def _show_on_terminal(columns: Sequence[str], rows: Iterable[Sequence[str]], right: set[str]) -> None:
    flexible = "body" in columns
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=flexible)
    for name in columns:
        # The body gets the remaining width, long names wrap, and all other columns keep their full width.
        table.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="ellipsis" if name == "body" else "fold",
            no_wrap=name not in ("session", "queue", "reason"),
            ratio=1 if name == "body" else None,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)


def _show_in_full(columns: Sequence[str], rows: Iterable[Sequence[str]], right: set[str]) -> None:
    # A tab or a line break in a value would look like another column or row.
    lines = [list(columns), *([errors.printable(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = []
        for name, cell, width in zip(columns, line, widths, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if name in right else cell + space)
        click.echo("  ".join(padded).rstrip(" "))


def show_instant(instant: datetime | None) -> str:
    """Return an instant in the local time zone, to the second. Outside of the calendar there, it is in its own time zone."""
    if instant is None:
        return ""
    with suppress(ValueError, OverflowError):
        instant = instant.astimezone()
    return f"{instant:%Y-%m-%d %H:%M:%S}"


def show_body(message: PeekedMessage) -> str:
    """Return a body as text, or as base64 with a mark."""
    try:
        return message.text()
    except UnicodeDecodeError:
        return "base64: " + base64.b64encode(message.body).decode()


def preview(message: PeekedMessage) -> str:
    """Return a body in one line: on a terminal its beginning, otherwise all of it."""
    if not sys.stdout.isatty():
        return " ".join(show_body(message).split())
    try:
        # A cut may split a character, so ignore errors in cut text. An error in a whole body means that it is not text.
        start = message.body[: PREVIEW * 4].decode(errors="strict" if len(message.body) <= PREVIEW * 4 else "ignore")
    except UnicodeDecodeError:
        return f"<{len(message.body)} bytes>"
    return " ".join(start[:PREVIEW].split()) + ("…" if len(start) > PREVIEW else "")


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if that is a terminal. Yield a function that advances the bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


# For scripts


def show_json(value: Mapping[str, object]) -> None:
    """Print one JSON object in one line, without the fields that are `None`."""
    click.echo(json.dumps(plain_json(value)))


def plain_json(value: Mapping[str, object]) -> dict[str, object]:
    """Return an object as `json` can write it, without the fields that are `None`."""
    return {name: _plain(field) for name, field in value.items() if field is not None}


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def message_json(message: PeekedMessage) -> dict[str, object]:
    """Return a message as a JSON object. ``body_encoding`` is ``utf-8`` or ``base64``."""
    try:
        body, encoding = message.text(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(message.body).decode(), "base64"
    time_to_live = message.time_to_live
    attributes, types = to_json(message.attributes)
    return {
        "sequence_number": message.sequence_number or None,
        "session_id": message.session_id,
        "message_id": message.message_id,
        "delivery_count": message.delivery_count,
        "enqueued_at": message.enqueued_at,
        "subject": message.subject,
        "content_type": message.content_type,
        "correlation_id": message.correlation_id,
        "reply_to": message.reply_to,
        "reply_to_session_id": message.reply_to_session_id,
        "to": message.to,
        "time_to_live": None if time_to_live is None else time_to_live.total_seconds(),
        "scheduled_enqueue_time": message.scheduled_enqueue_time,
        "attributes": attributes or None,
        **({"attribute_types": types} if types else {}),
        "dead_letter_reason": message.dead_letter_reason,
        "dead_letter_description": message.dead_letter_description,
        "body_encoding": encoding,
        "body": body,
    }
