"""The commands `azsession queue`, `sessions` and `dead-letters`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import click

from ..client.provider import ServiceBusProvider
from ..errors import ProviderError
from ..messages import PeekedMessage
from ..protocol.error_codes import MESSAGE_NOT_FOUND
from ..queues import QueueInfo, QueueSettings
from .common import (
    PAGE,
    Connect,
    client_options,
    message_json,
    note,
    plural,
    preview,
    progress,
    show_instant,
    show_json,
    show_table,
)

_DEFAULTS = QueueSettings()


@click.group()
def queue() -> None:
    """Create, show, list and delete queues. Needs a key with the Manage right."""


@queue.command()
@click.argument("name")
@click.option(
    "--lock-duration",
    type=float,
    default=_DEFAULTS.lock_duration,
    show_default=True,
    metavar="SECONDS",
    help="Duration of a session's lock, 1 to 300.",
)
@click.option(
    "--max-delivery-count",
    type=int,
    default=_DEFAULTS.max_delivery_count,
    show_default=True,
    metavar="N",
    help="Dead-letter a message after this many failed deliveries, 1 to 2000.",
)
@click.option(
    "--default-time-to-live",
    type=float,
    metavar="SECONDS",
    help="Keep messages without their own time to live for this long. Default: forever.",
)
@click.option("--dead-letter-on-expiration", is_flag=True, help="Dead-letter expired messages instead of deleting them.")
@click.option("--requires-duplicate-detection", is_flag=True, help="Drop a message whose message id was sent before.")
@click.option(
    "--duplicate-detection-window",
    type=float,
    default=_DEFAULTS.duplicate_detection_window,
    show_default=True,
    metavar="SECONDS",
    help="Remember message ids for this long, 20 to 604800.",
)
@client_options
def create(name: str, connect: Connect, as_json: bool, **settings: Any) -> None:
    """Create the queue NAME. Succeed if it exists with the same settings."""
    wanted = QueueSettings(**settings)
    with connect() as provider:
        new = provider.create_queue(name, wanted)
    if as_json:
        show_json({"name": name, "created": new})
    else:
        click.echo(f"created {name}" if new else f"{name} already exists with these settings")


@queue.command()
@click.argument("name")
@client_options
def show(name: str, connect: Connect, as_json: bool) -> None:
    """Show the message counts and the settings of the queue NAME."""
    with connect() as provider:
        found = provider.get_queue(name)
    if as_json:
        show_json(_queue_json(found))
    else:
        facts = {"active messages": found.active_count, "dead letters": found.dead_letter_count, **_settings(found)}
        show_table(("queue", found.name), [(fact, value) for fact, value in facts.items() if value is not None])


@queue.command(name="list")
@client_options
def list_queues(connect: Connect, as_json: bool) -> None:
    """List all queues and their settings."""
    with connect() as provider:
        queues = provider.list_queues()
    if as_json:
        for found in queues:
            show_json(_queue_json(found))
    elif queues:
        rows = [(found.name, *_settings(found).values()) for found in queues]
        show_table(("queue", *_settings(queues[0])), rows)
    else:
        note("there are no queues; create one with azsession queue create NAME")


@queue.command()
@click.argument("name")
@client_options
def delete(name: str, connect: Connect, as_json: bool) -> None:
    """Delete the queue NAME and all of its messages."""
    with connect() as provider:
        provider.delete_queue(name)
    if as_json:
        show_json({"name": name, "deleted": True})
    else:
        click.echo(f"deleted {name}")


def _queue_json(found: QueueInfo) -> dict[str, Any]:
    counts = {"active_count": found.active_count, "dead_letter_count": found.dead_letter_count}
    return {"name": found.name, **counts, **attrs.asdict(found.settings)}


def _settings(found: QueueInfo) -> dict[str, str]:
    """Return the settings of a queue as text for a table."""
    settings = found.settings
    time_to_live = settings.default_time_to_live
    window = f"{settings.duplicate_detection_window:g} s"
    return {
        "lock": f"{settings.lock_duration:g} s",
        "max deliveries": str(settings.max_delivery_count),
        "time to live": "forever" if time_to_live is None else f"{time_to_live:g} s",
        "expired messages": "dead-lettered" if settings.dead_letter_on_expiration else "deleted",
        "duplicates": f"dropped within {window}" if settings.requires_duplicate_detection else "kept",
    }


@click.command(short_help="List the sessions of a queue.")
@click.argument("queue")
@client_options
def sessions(queue: str, connect: Connect, as_json: bool) -> None:
    """List the sessions of QUEUE that have messages or state, and show until when they are locked."""
    with connect() as provider:
        found = provider.list_sessions(queue)
    if as_json:
        for info in found:
            show_json(attrs.asdict(info))
    elif found:
        rows = [(info.session_id, info.message_count, show_instant(info.locked_until)) for info in found]
        show_table(("session", "messages", "locked until"), rows, numbers=["messages"])
        counts = [info.message_count for info in found if info.message_count is not None]
        messages = f"{plural(sum(counts), 'message')} in " if counts else ""
        note(f"{messages}{plural(len(found), 'session')}")
    else:
        note(f"{queue} has no sessions")


# Dead letters


@click.group(name="dead-letters", short_help="List, resubmit and delete dead letters.")
def dead_letters() -> None:
    """List, resubmit and delete the dead-lettered messages of a queue."""


@dead_letters.command(name="list")
@click.argument("queue")
@click.option(
    "--max", "most", type=click.IntRange(1), default=100, show_default=True, help="Show at most this many messages."
)
@click.option("--from", "start", type=click.IntRange(0), default=0, metavar="SEQ", help="Start at this sequence number.")
@client_options
def list_dead_letters(queue: str, most: int, start: int, connect: Connect, as_json: bool) -> None:
    """List the dead letters of QUEUE with their reasons."""
    found: list[PeekedMessage] = []
    more = None
    with connect() as provider:
        for count, message in enumerate(_dead_letters(provider, queue, start)):
            if count == most:
                more = message.sequence_number
                break
            if as_json:
                show_json(message_json(message))
            else:
                found.append(message)
    if found:
        show_table(
            ("seq", "session", "enqueued", "deliveries", "reason", "body"),
            [
                (
                    m.sequence_number,
                    m.session_id,
                    show_instant(m.enqueued_at),
                    m.delivery_count,
                    ": ".join(filter(None, (m.dead_letter_reason, m.dead_letter_description))),
                    preview(m),
                )
                for m in found
            ],
            numbers=("seq", "deliveries"),
        )
    elif not as_json:
        note(f"{queue} has no dead letters")
    if more is not None:
        note(f"there are more; continue with --from {more}")


def _dead_letters(provider: ServiceBusProvider, queue: str, start: int = 0) -> Iterator[PeekedMessage]:
    while True:
        page = provider.dead_letters(queue, PAGE, start)
        yield from page
        if not page:
            return
        start = page[-1].sequence_number + 1


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments that select dead letters to a command."""
    command = click.option("--all", "every", is_flag=True, help="Select all dead letters of the queue.")(command)
    command = click.argument("sequence_numbers", metavar="[SEQ]...", nargs=-1, type=click.IntRange(1))(command)
    return click.argument("queue")(command)


@dead_letters.command()
@_selecting
@client_options
def resubmit(queue: str, sequence_numbers: tuple[int, ...], every: bool, connect: Connect, as_json: bool) -> None:
    """Move dead letters of QUEUE to the end of their sessions, as new messages.

    Give their sequence numbers (SEQ) or --all.
    """
    with connect() as provider:
        count = _for_each(provider, queue, sequence_numbers, every, "resubmitting", provider.resubmit)
    if as_json:
        show_json({"queue": queue, "resubmitted": count})
    else:
        click.echo(f"resubmitted {plural(count, 'dead letter')} of {queue}")


@dead_letters.command(name="delete")
@_selecting
@client_options
def delete_dead_letters(queue: str, sequence_numbers: tuple[int, ...], every: bool, connect: Connect, as_json: bool) -> None:
    """Delete dead letters of QUEUE.

    Give their sequence numbers (SEQ) or --all.
    """
    with connect() as provider:
        count = _for_each(provider, queue, sequence_numbers, every, "deleting", provider.delete_dead_letter)
    if as_json:
        show_json({"queue": queue, "deleted": count})
    else:
        click.echo(f"deleted {plural(count, 'dead letter')} of {queue}")


def _for_each(
    provider: ServiceBusProvider,
    queue: str,
    chosen: tuple[int, ...],
    every: bool,
    doing: str,
    act: Callable[[str, int], None],
) -> int:
    """Call `act` with each selected dead letter. Return how many there were."""
    if bool(chosen) == every:
        raise click.UsageError("give either sequence numbers or --all")
    # List them first: a resubmitted message may be dead-lettered again while this runs.
    numbers = [m.sequence_number for m in _dead_letters(provider, queue)] if every else list(chosen)
    done = 0
    with progress(f"{doing} in {queue}", len(numbers)) as advance:
        for number in numbers:
            try:
                act(queue, number)
                done += 1
            except ProviderError as error:
                if error.code != MESSAGE_NOT_FOUND:
                    raise
                # Another process handled this dead letter first. That is an error only if the user named it.
                if not every:
                    raise
            advance(1)
    return done
