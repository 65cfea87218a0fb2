"""The commands `azsession send`, `receive` and `peek`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import BinaryIO

import click

from ..client.provider import ServiceBusProvider
from ..client.session import SessionClient
from ..errors import NoSessionAvailableError, QueueError, ValidationError, revised
from ..messages import Message, PeekedMessage, ReceivedMessage
from ..validation import check_queue_name, check_session_id
from .common import (
    PAGE,
    Connect,
    client_options,
    message_json,
    note,
    plural,
    preview,
    printable,
    progress,
    show_body,
    show_instant,
    show_json,
    show_table,
)

# Sending


@click.command(short_help="Send one message, or the messages in a file.")
@click.argument("queue")
@click.option("--file", type=click.File("rb"), help="Send each line of this JSON lines file. - is standard input.")
@click.option("--body", metavar="TEXT", help="Send one message with this body.")
@click.option("--session-id", metavar="ID", help="The session of --body, and of lines without a session_id.")
@client_options
def send(
    queue: str, file: BinaryIO | None, body: str | None, session_id: str | None, connect: Connect, as_json: bool
) -> None:
    """Send one message to QUEUE, or one message for each line of a file.

    Each line of the file must be a JSON object. Its session_id names the session, and the whole line becomes the message
    body. All lines are checked before the first one is sent.
    """
    if (file is None) == (body is None):
        raise click.UsageError("give either --file or --body")
    if body is not None and session_id is None:
        raise click.UsageError("--body needs a --session-id")
    check_queue_name(queue)
    if session_id is not None:
        check_session_id(session_id)
    messages = [Message(body or "", session_id=session_id)] if file is None else read_messages(file, session_id)
    with connect() as provider:
        ids = _send_all(provider, queue, messages)
    sessions = len({message.session_id for message in messages})
    if as_json:
        show_json({"queue": queue, "sent": len(ids), "sessions": sessions, "message_ids": ids})
    else:
        click.echo(f"sent {plural(len(ids), 'message')} in {plural(sessions, 'session')} to {queue}")


def _send_all(provider: ServiceBusProvider, queue: str, messages: Sequence[Message]) -> list[str]:
    ids: list[str] = []
    with progress(f"sending to {queue}", len(messages)) as advance:
        for start in range(0, len(messages), PAGE):
            part = messages[start : start + PAGE]
            try:
                ids += provider.send_messages(queue, part)
            except QueueError as error:
                accepted = len(ids) + error.accepted
                if len(messages) == 1:
                    raise
                text = f"{error}; the first {accepted} of {len(messages)} messages were sent"
                raise revised(error, text, accepted=accepted) from error.__cause__
            advance(len(part))
    return ids


def read_messages(file: BinaryIO, session_id: str | None = None) -> list[Message]:
    """Return a message for each line of a JSON lines file. Skip empty lines.

    Args:
        file: The open file.
        session_id: The session of lines that have no ``session_id``.

    Raises:
        ValidationError: A line is malformed. The error names the line and the reason.
    """
    name = getattr(file, "name", None)
    shown = name if isinstance(name, str) and name != "<stdin>" else "standard input"
    messages = []
    for number, line in enumerate(file, 1):
        body = line.rstrip(b"\r\n")
        if number == 1:
            body = body.removeprefix(b"\xef\xbb\xbf")
        if body.strip():
            try:
                messages.append(_message(body, session_id))
            except ValidationError as error:
                raise ValidationError(f"{shown}, line {number}: {error}; nothing was sent") from None
    return messages


def _message(line: bytes, session_id: str | None) -> Message:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValidationError(f"not UTF-8, at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValidationError(f"not JSON: {error.msg}, at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise ValidationError("not readable JSON: a number is too large, or the nesting is too deep") from None
    if not isinstance(value, dict):
        raise ValidationError("not a JSON object")
    chosen = value.get("session_id", session_id)
    if chosen is None:
        raise ValidationError("no session_id, and no --session-id was given")
    return Message(line, session_id=check_session_id(chosen), content_type="application/json")


# Receiving


@click.command(short_help="Receive the messages of one session.")
@click.argument("queue")
@click.argument("session", required=False)
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

    Without --complete the messages are shown and returned to the queue. Each time counts as a delivery, and a message that
    exceeds the queue's maximum delivery count is dead-lettered. To look without receiving, use "azsession peek".
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
        note(f"completed {plural(taken, 'message')} of session {client.session_id}")
    else:
        note(f"returned {plural(taken, 'message')} of session {client.session_id} to the queue (--complete deletes them)")


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
        message.session_id or "",
        show_instant(message.enqueued_at),
        f"delivery {message.delivery_count}" if message.delivery_count > 1 else "",
        message.subject or "",
    ]
    click.secho(printable("  ".join(fact for fact in facts if fact)), bold=True)
    click.echo(printable(show_body(message)) + "\n")


# Looking


@click.command(short_help="Show messages of one session without receiving them.")
@click.argument("queue")
@click.argument("session")
@click.option("--max", "most", type=click.IntRange(1), default=10, show_default=True, help="Show at most this many messages.")
@click.option("--from", "start", type=click.IntRange(0), default=0, metavar="SEQ", help="Start at this sequence number.")
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
        note(f"session {session} of {queue} has no messages")
