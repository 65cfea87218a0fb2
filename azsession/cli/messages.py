"""`azsession send`, `receive` and `peek`."""

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


@click.command(short_help="Send messages, from a file or one.")
@click.argument("queue")
@click.option("--file", type=click.File("rb"), help="JSON lines, each an object with a session_id; - is standard input.")
@click.option("--body", metavar="TEXT", help="The body of one message.")
@click.option("--session-id", metavar="ID", help="For --body, and for the lines that have none.")
@client_options
def send(
    queue: str, file: BinaryIO | None, body: str | None, session_id: str | None, connect: Connect, as_json: bool
) -> None:
    """Send messages to QUEUE: one, or one for each line of a file.

    Each line of the file is a JSON object; its session_id says where it goes, and the whole line is the message's body. All
    lines are checked before the first is sent.
    """
    if (file is None) == (body is None):
        raise click.UsageError("give --file or --body")
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
        click.echo(f"sent {plural(len(ids), 'message')} of {plural(sessions, 'session')} to {queue}")


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
    """Return a message for each line of JSON lines; `session_id` is for those that have none. Empty lines are left out.

    Raises:
        ValidationError: A line is not right; says which and why.
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
        raise ValidationError("not JSON that can be read: too large a number, or too deep") from None
    if not isinstance(value, dict):
        raise ValidationError("not a JSON object")
    chosen = value.get("session_id", session_id)
    if chosen is None:
        raise ValidationError("it has no session_id, and there is no --session-id")
    return Message(line, session_id=check_session_id(chosen), content_type="application/json")


# Receiving


@click.command(short_help="Receive messages of a session.")
@click.argument("queue")
@click.argument("session", required=False)
@click.option("--complete", is_flag=True, help="Delete each message once it is printed.")
@click.option("--max", "most", type=click.IntRange(1), default=10, show_default=True, help="Messages to take.")
@click.option(
    "--timeout", type=click.FloatRange(0, 86400), default=5.0, show_default=True, help="Seconds to wait for the first."
)
@client_options
def receive(
    queue: str, session: str | None, complete: bool, most: int, timeout: float, connect: Connect, as_json: bool
) -> None:
    """Receive messages of one SESSION of QUEUE, by default of the next one that has some.

    Without --complete they are shown and given back, which counts as a delivery: a queue dead-letters what was delivered too
    often. `azsession peek` only looks.
    """
    with connect() as provider:
        try:
            client = provider.create_session_client(queue, session, accept_timeout=timeout)
        except NoSessionAvailableError:
            note(f"no session of {queue} had messages within {timeout:g} s")
            return
        with client:
            # The next session that has messages need not be waited for again.
            taken = _take(client, most, timeout if session is not None else 0.0, complete=complete, as_json=as_json)
    if not taken:
        note(f"nothing came within {timeout:g} s")
    elif complete:
        note(f"{plural(taken, 'message')} of {client.session_id} completed")
    else:
        note(f"{plural(taken, 'message')} of {client.session_id} shown and given back; --complete deletes")


def _take(client: SessionClient, most: int, timeout: float, *, complete: bool, as_json: bool) -> int:
    """Print up to `most` messages, and complete what was printed; return how many."""
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
        # What could not be printed, on a full disk or to a reader that left, is not completed.
        if complete:
            client.complete_messages(messages)
        taken += len(messages)
    return taken


def _show(message: ReceivedMessage) -> None:
    facts = [
        f"#{message.sequence_number}" if message.sequence_number is not None else "",
        message.session_id or "",
        show_instant(message.enqueued_at),
        f"delivery {message.delivery_count}" if message.delivery_count > 1 else "",
        message.subject or "",
    ]
    click.secho(printable("  ".join(fact for fact in facts if fact)), bold=True)
    click.echo(printable(show_body(message)) + "\n")


# Looking


@click.command(short_help="Look at messages of a session.")
@click.argument("queue")
@click.argument("session")
@click.option("--max", "most", type=click.IntRange(1), default=10, show_default=True, help="Messages to show.")
@click.option("--from", "start", type=click.IntRange(0), default=0, metavar="SEQ", help="The sequence number to begin at.")
@client_options
def peek(queue: str, session: str, most: int, start: int, connect: Connect, as_json: bool) -> None:
    """Show messages of a SESSION of QUEUE without receiving them: also deferred and scheduled ones."""
    messages: list[PeekedMessage] = []
    shown = 0
    with connect() as provider:
        while shown < most:
            page = provider.peek_messages(queue, session, min(PAGE, most - shown), start)
            if not page:
                break
            shown += len(page)
            start = (page[-1].sequence_number or 0) + 1
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
        note(f"{session} of {queue} has no messages")
