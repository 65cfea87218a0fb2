"""The command `azsession dead-letters`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import click

from ..client.provider import ServiceBusProvider
from ..display import plural
from ..errors import ProviderError
from ..messages import PeekedMessage
from ..protocol.error_codes import MESSAGE_NOT_FOUND
from ..validation import MAX_SEQUENCE_NUMBER
from .common import (
    PAGE,
    QUEUE,
    SESSION,
    CommandGroup,
    Connect,
    client_options,
    each_message,
    from_option,
    message_json,
    note,
    preview,
    progress,
    progress_reported,
    show_id,
    show_instant,
    show_json,
    show_table,
)


@click.group(cls=CommandGroup, name="dead-letters", short_help="List, resubmit and delete dead letters.")
def dead_letters() -> None:
    """List, resubmit and delete the dead-lettered messages of a queue."""


@dead_letters.command(name="list")
@click.argument("queue", type=QUEUE)
@click.option(
    "--max", "most", type=click.IntRange(1), default=100, show_default=True, help="Show at most this many messages."
)
@from_option
@click.option("--session-id", type=SESSION, metavar="ID", help="List the dead letters of this session.")
@client_options
def list_dead_letters(queue: str, most: int, start: int, session_id: str | None, connect: Connect, as_json: bool) -> None:
    """List the dead letters of QUEUE with their reasons."""
    found: list[PeekedMessage] = []
    more = None
    with connect() as provider:
        for count, message in enumerate(_dead_letters(provider, queue, start, session_id)):
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
                    show_id(m.session_id),
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
        note(f"{'' if session_id is None else f'session {show_id(session_id)} of '}{queue} has no dead letters")
    if more is not None:
        note(f"there are more; continue with --from {more}")


def _dead_letters(
    provider: ServiceBusProvider, queue: str, start: int = 0, session_id: str | None = None
) -> Iterator[PeekedMessage]:
    return each_message(lambda at: provider.dead_letters(queue, PAGE, at, session_id=session_id), start)


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments that select dead letters to a command."""
    command = click.option("--all", "every", is_flag=True, help="Select all dead letters of the queue.")(command)
    command = click.argument("sequence_numbers", metavar="[SEQ]...", nargs=-1, type=click.IntRange(1, MAX_SEQUENCE_NUMBER))(
        command
    )
    return click.argument("queue", type=QUEUE)(command)


@dead_letters.command()
@_selecting
@click.option("--session-id", type=SESSION, metavar="ID", help="Select all dead letters of this session.")
@client_options
def resubmit(
    queue: str, sequence_numbers: tuple[int, ...], every: bool, session_id: str | None, connect: Connect, as_json: bool
) -> None:
    """Move dead letters of QUEUE to the end of their sessions, as new messages.

    Give their sequence numbers (SEQ), --session-id or --all.
    """
    with connect() as provider:
        if session_id is None:
            count = _for_each(provider, queue, sequence_numbers, every, "resubmitting", "resubmitted", provider.resubmit)
        elif sequence_numbers or every:
            raise click.UsageError("give sequence numbers, --session-id or --all, only one of them")
        else:
            count = provider.resubmit_session(queue, session_id)
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
        count = _for_each(provider, queue, sequence_numbers, every, "deleting", "deleted", provider.delete_dead_letter)
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
    did: str,
    act: Callable[[str, int], None],
) -> int:
    """Call `act` with each selected dead letter. Return how many there were.

    Args:
        provider: The connection.
        queue: The queue.
        chosen: The sequence numbers, unless `every`.
        every: Select all dead letters.
        doing: The verb of the progress bar, for example ``deleting``.
        did: The verb of the result, for example ``deleted``.
        act: Called with the queue and a sequence number.
    """
    if bool(chosen) == every:
        raise click.UsageError("give either sequence numbers or --all")
    # List them first: a resubmitted message may be dead-lettered again while this runs.
    numbers = [m.sequence_number for m in _dead_letters(provider, queue)] if every else list(chosen)
    handled: list[int] = []

    def done() -> str:
        listed = "" if every or not handled else f": {', '.join(map(str, handled))}"
        return f"{len(handled)} of {plural(len(numbers), 'dead letter')} were {did}{listed}"

    with (
        progress(f"{doing} in {queue}", len(numbers)) as advance,
        progress_reported(done) if len(numbers) > 1 else nullcontext(),
    ):
        for number in numbers:
            try:
                act(queue, number)
                handled.append(number)
            except ProviderError as error:
                if error.code != MESSAGE_NOT_FOUND:
                    raise
                # Another process handled this dead letter first. That is an error only if the user named it.
                if not every:
                    raise
            advance(1)
    return len(handled)
