"""The command `azsession send`."""

from __future__ import annotations

from typing import BinaryIO

import click

from ..display import plural
from ..messages import Message
from .common import PAGE, QUEUE, SESSION, Connect, checked_options, client_options, progress, show_json
from .json_lines import LineFields, name_of, read_lines
from .line_sending import LineSender, resume_option


@click.command(short_help="Send one message, or the messages in a file.")
@click.argument("queue", type=QUEUE)
@click.option("--file", type=click.File("rb"), help="Send each line of this JSON lines file. - is standard input.")
@click.option("--body", metavar="TEXT", help="Send one message with this body.")
@click.option("--session-id", type=SESSION, metavar="ID", help="The session of --body, and of lines without a session id.")
@click.option(
    "--session-id-field",
    default="session_id",
    show_default=True,
    metavar="NAME",
    help="The field of a line that names its session: text or a number. Dots lead into objects: payload.repository.id.",
)
@click.option("--subject-field", metavar="NAME", help="The field of a line that becomes the subject: text or a number.")
@click.option(
    "--attributes-field",
    metavar="NAME",
    help="The field of a line that becomes the attributes: an object of texts, numbers and booleans. Nulls are left out.",
)
@resume_option
@client_options
def send(
    queue: str,
    file: BinaryIO | None,
    body: str | None,
    session_id: str | None,
    session_id_field: str,
    subject_field: str | None,
    attributes_field: str | None,
    resume_from: int | None,
    connect: Connect,
    as_json: bool,
) -> None:
    """Send one message to QUEUE, or one message for each line of a file.

    Each line of the file must be a JSON object. One of its fields names the session, and the whole line becomes the message
    body. All lines are checked before the first one is sent.
    """
    if (file is None) == (body is None):
        raise click.UsageError("give either --file or --body")
    if body is not None:
        if session_id is None:
            raise click.UsageError("--body needs a --session-id")
        if subject_field or attributes_field or resume_from or session_id_field != "session_id":
            raise click.UsageError("--session-id-field, --subject-field, --attributes-field and --resume-from need --file")
    if file is None:
        with checked_options():
            message = Message(body or "", session_id=session_id)
        with connect() as provider:
            ids = [provider.send_message(queue, message)]
        sessions = 1
    else:
        fields = LineFields(session_id=session_id_field, subject=subject_field, attributes=attributes_field)
        lines = read_lines(file, session_id, fields, start=resume_from or 1)
        with connect() as provider:
            sender = LineSender(provider, queue, name_of(file), resume_from or 1)
            ids = []
            with progress(f"sending to {queue}", len(lines)) as advance, sender:
                for start in range(0, len(lines), PAGE):
                    page = lines[start : start + PAGE]
                    ids += sender.send(page)
                    advance(len(page))
        sessions = len({line.message.session_id for line in lines})
    if as_json:
        show_json({"queue": queue, "sent": len(ids), "sessions": sessions, "message_ids": ids})
    else:
        click.echo(f"sent {plural(len(ids), 'message')} in {plural(sessions, 'session')} to {queue}")
