"""The command `azsession send`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import BinaryIO

import click

from ..client.provider import ServiceBusProvider
from ..client.sending import accepted_note
from ..errors import ConnectionFailedError, QueueError, revised
from ..messages import Message
from .common import PAGE, QUEUE, SESSION, Connect, checked_options, client_options, note, plural, progress, show_json
from .json_lines import Line, LineFields, name_of, read_lines

#: The position of a message in the error of a request with several messages.
_POSITION = re.compile(r"\bmessage ([0-9]+) of [0-9]+")


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
@click.option(
    "--resume-from",
    type=click.IntRange(1),
    metavar="LINE",
    help="Begin at this line of the file. An error or Ctrl-C says which line this is.",
)
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
            ids = _FileSender(provider, queue, name_of(file), lines).send()
        sessions = len({line.message.session_id for line in lines})
    if as_json:
        show_json({"queue": queue, "sent": len(ids), "sessions": sessions, "message_ids": ids})
    else:
        click.echo(f"sent {plural(len(ids), 'message')} in {plural(sessions, 'session')} to {queue}")


class _FileSender:
    """Sends the lines of a file, and can say how far it came."""

    def __init__(self, provider: ServiceBusProvider, queue: str, name: str, lines: Sequence[Line]) -> None:
        self._provider = provider
        self._queue = queue
        self._name = name
        self._lines = lines
        self._sent = 0

    def send(self) -> list[str]:
        """Send all lines. Return the message ids.

        Raises:
            QueueError: A line was not sent. The error names it, and says how to continue.
        """
        ids: list[str] = []
        with progress(f"sending to {self._queue}", len(self._lines)) as advance:
            while self._sent < len(self._lines):
                page = [line.message for line in self._lines[self._sent : self._sent + PAGE]]
                try:
                    ids += self._provider.send_messages(self._queue, page)
                except QueueError as error:
                    raise self._named(error, len(page)) from error.__cause__
                except (KeyboardInterrupt, SystemExit):
                    note(f"interrupted: {self._progress(PAGE)}")
                    raise
                self._sent += len(page)
                advance(len(page))
        return ids

    def _named(self, error: QueueError, count: int) -> QueueError:
        """Return the error of a page of `count` messages with the line that it is about, and with the progress."""
        # The error counts the messages of its page. The numbers of lines say more.
        text = str(error).removesuffix(accepted_note(error.accepted, count))
        wrong = _POSITION.search(text)
        index = self._sent + (error.accepted if wrong is None else int(wrong[1]) - 1)
        text = _POSITION.sub("the message", text)
        self._sent += error.accepted
        maybe = isinstance(error, ConnectionFailedError) and error.maybe_delivered
        progress = self._progress(count - error.accepted if maybe else 0)
        return revised(error, f"{self._name}, line {self._lines[index].number}: {text}; {progress}", accepted=self._sent)

    def _progress(self, in_doubt: int) -> str:
        """Say how many messages were sent, and how to continue.

        Args:
            in_doubt: The number of further messages that may have been sent.
        """
        if not self._sent:
            parts = ["nothing was sent" if not in_doubt else "nothing is known to be sent"]
        else:
            before = self._lines[self._sent - 1].number
            parts = [f"{plural(self._sent, 'message')} {'was' if self._sent == 1 else 'were'} sent, up to line {before}"]
        if in_doubt:
            last = self._lines[min(self._sent + in_doubt, len(self._lines)) - 1].number
            parts.append(f"lines up to {last} may have been sent, too")
        parts.append(f"continue with --resume-from {self._lines[self._sent].number}")
        return "; ".join(parts)
