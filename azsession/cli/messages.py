"""The commands `azsession receive` and `peek`."""

from __future__ import annotations

import click

from ..client.session import SessionClient
from ..display import plural
from ..errors import NoSessionAvailableError
from ..messages import PeekedMessage, ReceivedMessage
from .common import (
    PAGE,
    QUEUE,
    SESSION,
    Connect,
    client_options,
    from_option,
    message_json,
    note,
    preview,
    printable,
    show_body,
    show_id,
    show_instant,
    show_json,
    show_table,
)


@click.command(short_help="Receive the messages of one session.")
@click.argument("queue", type=QUEUE)
@click.argument("session", type=SESSION, required=False)
@click.option("--complete", is_flag=True, help="Complete (delete) each message after printing it.")
@click.option(
    "--max", "most", type=click.IntRange(1), default=10, show_default=True, help="Receive at most this many messages."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    default=5.0,
    show_default=True,
    help="Seconds to wait for the first message.",
)
@client_options
def receive(
    queue: str, session: str | None, complete: bool, most: int, timeout: float, connect: Connect, as_json: bool
) -> None:
    """Receive messages of one SESSION of QUEUE. Without SESSION, take the next session that has messages.

    Without --complete the messages are shown and returned to the queue, which counts no delivery. To look without receiving,
    use "azsession peek".
    """
    with connect() as provider:
        try:
            client = provider.create_session_client(queue, session, accept_timeout=timeout)
        except NoSessionAvailableError:
            note(f"no session of {queue} had a message within {timeout:g} s")
            return
        with client:
            # A session chosen by the server has messages, so do not wait a second time.
            taken = _take(client, most, timeout if session is not None else 0.0, complete=complete, as_json=as_json)
    if not taken:
        note(f"no message arrived within {timeout:g} s")
    elif complete:
        note(f"completed {plural(taken, 'message')} of session {show_id(client.session_id)}")
    else:
        name = show_id(client.session_id)
        note(f"returned {plural(taken, 'message')} of session {name} to the queue (--complete deletes them)")


def _take(client: SessionClient, most: int, timeout: float, *, complete: bool, as_json: bool) -> int:
    """Print up to `most` messages, and complete them if asked to. Return their number."""
    taken = 0
    while taken < most:
        messages = client.receive_messages(min(PAGE, most - taken), 0.0 if taken else timeout)
        if not messages:
            break
        for message in messages:
            if as_json:
                show_json(message_json(message))
            else:
                _show(message)
        # Complete only after printing: on a full disk or a closed pipe, the messages stay in the queue.
        if complete:
            client.complete_messages(messages)
        taken += len(messages)
    return taken


def _show(message: ReceivedMessage) -> None:
    facts = [
        f"#{message.sequence_number}" if message.sequence_number else "",
        show_id(message.session_id),
        show_instant(message.enqueued_at),
        f"delivery {message.delivery_count}" if message.delivery_count > 1 else "",
        message.subject or "",
    ]
    click.secho(printable("  ".join(fact for fact in facts if fact)), bold=True)
    click.echo(printable(show_body(message)) + "\n")


# Looking


@click.command(short_help="Show messages of one session without receiving them.")
@click.argument("queue", type=QUEUE)
@click.argument("session", type=SESSION)
@click.option("--max", "most", type=click.IntRange(1), default=10, show_default=True, help="Show at most this many messages.")
@from_option
@client_options
def peek(queue: str, session: str, most: int, start: int, connect: Connect, as_json: bool) -> None:
    """Show messages of a SESSION of QUEUE without receiving them, including deferred and scheduled ones."""
    messages: list[PeekedMessage] = []
    shown = 0
    with connect() as provider:
        while shown < most:
            page = provider.peek_messages(queue, session, min(PAGE, most - shown), start)
            if not page:
                break
            shown += len(page)
            start = page[-1].sequence_number + 1
            if as_json:
                for message in page:
                    show_json({"state": message.state, **message_json(message)})
            else:
                messages += page
    if messages:
        show_table(
            ("seq", "enqueued", "state", "deliveries", "body"),
            [(m.sequence_number, show_instant(m.enqueued_at), m.state, m.delivery_count, preview(m)) for m in messages],
            numbers=("seq", "deliveries"),
        )
    elif not shown:
        note(f"session {show_id(session)} of {queue} has no messages")
