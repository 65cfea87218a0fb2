"""The commands `azsession schedule`, `cancel` and `purge`."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone

import click

from ..display import plural
from ..messages import Message
from ..validation import MAX_SEQUENCE_NUMBER
from .common import QUEUE, SESSION, Connect, checked_options, client_options, show_instant, show_json

_FORMATS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S")


def _instant(text: str) -> datetime:
    """Return the time in the option ``--at``, as UTC."""
    for each in _FORMATS:
        # The first and the last day of the calendar can be outside of it in UTC.
        with suppress(ValueError, OverflowError):
            return datetime.strptime(text, each).astimezone(timezone.utc)
    raise click.BadParameter(f"{text!r} is not a time of the form 2030-01-31T09:30:00 or 2030-01-31T09:30:00+0100")


@click.command(short_help="Send a message that becomes available later.")
@click.argument("queue", type=QUEUE)
@click.option("--body", required=True, metavar="TEXT", help="The body of the message.")
@click.option("--session-id", required=True, type=SESSION, metavar="ID", help="The session of the message.")
@click.option("--in", "delay", type=click.FloatRange(0, 1e9), metavar="SECONDS", help="Make it available after this time.")
@click.option(
    "--at",
    type=_instant,
    metavar="TIME",
    help="Make it available at this time, for example 2030-01-31T09:30:00, in the local time zone unless it has one, for "
    "example 2030-01-31T09:30:00+0100.",
)
@client_options
def schedule(
    queue: str, body: str, session_id: str, delay: float | None, at: datetime | None, connect: Connect, as_json: bool
) -> None:
    """Send a message to QUEUE that becomes available later, and print its sequence number.

    Give either --in or --at. "azsession cancel" takes the sequence number.
    """
    if (delay is None) == (at is None):
        raise click.UsageError("give either --in or --at")
    when = datetime.now(timezone.utc) + timedelta(seconds=delay or 0.0) if at is None else at
    with checked_options():
        message = Message(body, session_id=session_id, scheduled_enqueue_time=when)
    with connect() as provider:
        [number] = provider.schedule_messages(queue, [message], when)
    if as_json:
        show_json({"queue": queue, "sequence_number": number, "scheduled_enqueue_time": when})
    else:
        click.echo(f"scheduled message {number} in {queue} for {show_instant(when)}")


@click.command(short_help="Cancel scheduled messages.")
@click.argument("queue", type=QUEUE)
@click.argument("numbers", metavar="SEQ...", type=click.IntRange(1, MAX_SEQUENCE_NUMBER), nargs=-1, required=True)
@client_options
def cancel(queue: str, numbers: tuple[int, ...], connect: Connect, as_json: bool) -> None:
    """Cancel scheduled messages of QUEUE by their sequence numbers: all of them, or none and an error.

    "azsession schedule" and "azsession peek" print the sequence numbers.
    """
    with connect() as provider:
        provider.cancel_scheduled_messages(queue, numbers)
    if as_json:
        show_json({"queue": queue, "cancelled": len(numbers)})
    else:
        click.echo(f"cancelled {plural(len(numbers), 'message')} of {queue}")


@click.command(short_help="Delete the messages of a queue or of a session.")
@click.argument("queue", type=QUEUE)
@click.option("--session-id", type=SESSION, metavar="ID", help="Delete the messages of this session.")
@click.option("--all", "everything", is_flag=True, help="Delete the messages of all sessions that no client holds.")
@client_options
def purge(queue: str, session_id: str | None, everything: bool, connect: Connect, as_json: bool) -> None:
    """Delete the active, deferred and scheduled messages of QUEUE. Dead letters and session states stay.

    Give either --session-id or --all.
    """
    if (session_id is None) != everything:
        raise click.UsageError("give either --session-id or --all")
    with connect() as provider:
        count = provider.purge(queue, session_id)
    if as_json:
        show_json({"queue": queue, "deleted": count})
    else:
        click.echo(f"deleted {plural(count, 'message')} of {queue}")
