"""The command `azsession import`: sends the lines that `azsession export` wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, cast

import click

from ..client.provider import ServiceBusProvider
from ..client.sending import with_id
from ..client.session import SessionClient
from ..errors import ProviderError, QueueError, revised
from ..messages import Message, ReceivedMessage
from .common import PAGE, QUEUE, Connect, client_options, progress, show_id, show_json
from .export_lines import Exported, ExportedMessage, ExportedState, counted, parse_line
from .json_lines import Line, name_of, parsed_lines
from .line_sending import LineSender, resume_option

#: Seconds to wait for a message that was sent just now.
_PATIENCE = 10.0
#: Messages that may be in a session in front of deferred messages and dead letters that are imported.
_MAX_IN_FRONT = 1000
#: Bytes of bodies in one page.
_PAGE_SIZE = 16 * 1024 * 1024

_Numbered = tuple[int, Exported]


@click.command(name="import", short_help="Send the messages that an export wrote.")
@click.argument("queue", type=QUEUE)
@click.argument("file", type=click.File("rb"))
@resume_option
@client_options
def import_lines(queue: str, file: BinaryIO, resume_from: int | None, connect: Connect, as_json: bool) -> None:
    """Send the lines of FILE, which "azsession export" wrote, to QUEUE. - is standard input.

    All lines are checked before the first one is sent. Messages keep their ids, properties, sessions, order and schedule.
    Deferred messages and dead letters are sent, received and deferred or dead-lettered again. So stop the clients of the
    queue first. They and session states need the right Listen besides Send.
    """
    start = resume_from or 1
    with ExitStack() as stack:
        lines = file if file.seekable() else stack.enter_context(_copied(file))
        begin = lines.tell()
        total = sum(1 for _ in parsed_lines(lines, parse_line, start=start, outcome="nothing was imported"))
        lines.seek(begin)
        with connect() as provider:
            run = _Import(provider, queue, name_of(file), start)
            run.handle_all(parsed_lines(lines, parse_line, start=start, outcome="the file has changed"), total)
    if as_json:
        show_json({"queue": queue, **run.counts})
    else:
        click.echo(f"imported {counted(run.counts)} into {queue}")


def _copied(file: BinaryIO) -> BinaryIO:
    """Return a copy of standard input, which can be read only once."""
    copy = cast("BinaryIO", tempfile.TemporaryFile(prefix="azsession-"))  # noqa: SIM115 - the caller closes it
    while piece := file.read(1024 * 1024):
        copy.write(piece)
    copy.seek(0)
    return copy


class _Import:
    """Handles the lines in their order, page by page.

    Attributes:
        counts: How many lines were handled, by kind.
    """

    def __init__(self, provider: ServiceBusProvider, queue: str, name: str, start: int) -> None:
        self._provider = provider
        self._queue = queue
        self._sender = LineSender(provider, queue, name, start, noun="line", did="imported")
        self.counts = {"messages": 0, "dead_letters": 0, "session_states": 0}

    def handle_all(self, lines: Iterator[_Numbered], total: int) -> None:
        """Handle all lines."""
        with progress(f"importing into {self._queue}", total) as advance, self._sender:
            for page in _pages(lines):
                self._handle(page)
                advance(len(page))

    def _handle(self, page: Sequence[_Numbered]) -> None:
        numbers = [number for number, _ in page]
        first = page[0][1]
        if isinstance(first, ExportedState):
            self._sender.handle(numbers, lambda: self._set_states([cast("ExportedState", one) for _, one in page]))
            self.counts["session_states"] += len(page)
            return
        messages = [cast("ExportedMessage", one) for _, one in page]
        if _needs_lock(first):
            self._sender.handle(numbers, lambda: self._restore(messages), in_doubt=True)
        else:
            self._sender.send([Line(number, one.message) for number, one in zip(numbers, messages, strict=True)])
        self.counts["dead_letters" if first.is_dead else "messages"] += len(page)

    def _set_states(self, states: Sequence[ExportedState]) -> None:
        for done, one in enumerate(states):
            with (
                _about(f"the state of session {show_id(one.session_id)}", done),
                self._provider.create_session_client(self._queue, one.session_id) as session,
            ):
                session.set_session_state(one.state)

    def _restore(self, messages: Sequence[ExportedMessage]) -> None:
        """Send messages, receive them, and defer or dead-letter them: session by session."""
        by_session: dict[str, list[ExportedMessage]] = {}
        for one in messages:
            by_session.setdefault(one.session_id, []).append(one)
        for session_id, its in by_session.items():
            with (
                _about(f"session {show_id(session_id)}"),
                self._provider.create_session_client(self._queue, session_id) as session,
            ):
                # This takes the lock, so that no other client receives the messages.
                session.get_session_state()
                self._restore_in(session, its)

    def _restore_in(self, session: SessionClient, messages: Sequence[ExportedMessage]) -> None:
        sent = [with_id(one.message) for one in messages]
        self._provider.send_messages(self._queue, sent)
        for one, received in zip(messages, _received(session, sent), strict=True):
            if one.is_dead:
                session.dead_letter_message(received, one.reason, one.description)
            else:
                session.defer_message(received)


@contextmanager
def _about(subject: str, done: int = 0) -> Iterator[None]:
    """Name the subject in an error, and say that `done` lines of the page were handled before."""
    try:
        yield
    except QueueError as error:
        raise revised(error, f"{subject}: {error}", accepted=done) from error.__cause__


def _pages(lines: Iterator[_Numbered]) -> Iterator[list[_Numbered]]:
    """Yield consecutive lines that are handled in the same way, up to `PAGE`."""
    page: list[_Numbered] = []
    size = 0
    for number, one in lines:
        if page and (len(page) == PAGE or size > _PAGE_SIZE or _way(page[0][1]) != _way(one)):
            yield page
            page, size = [], 0
        page.append((number, one))
        size += len(one.state if isinstance(one, ExportedState) else one.message.body)
    if page:
        yield page


def _way(one: Exported) -> tuple[bool, bool, bool]:
    if isinstance(one, ExportedState):
        return True, False, False
    return False, one.is_deferred, one.is_dead


def _needs_lock(one: ExportedMessage) -> bool:
    return one.is_dead or one.is_deferred


def _received(session: SessionClient, sent: Sequence[Message]) -> list[ReceivedMessage]:
    """Return messages of a session that were sent just now, in their order.

    Messages in front of them are received, too. They return when the client is closed. This counts no delivery.

    Raises:
        ProviderError: They do not come.
    """
    found: list[ReceivedMessage] = []
    in_front = 0
    while len(found) < len(sent):
        more = session.receive_messages(PAGE, _PATIENCE)
        for message in more:
            if len(found) < len(sent) and _is_same(message, sent[len(found)]):
                found.append(message)
            else:
                in_front += 1
        if not more or in_front > _MAX_IN_FRONT:
            why = (
                "the session has too many active messages, which an import has to receive first"
                if more
                else "the messages were sent, but did not come back: they have expired, or duplicate detection dropped them"
            )
            raise ProviderError(f"{why}; they were to become deferred messages or dead letters")
    return found


def _is_same(received: ReceivedMessage, sent: Message) -> bool:
    return (received.message_id, received.body) == (sent.message_id, sent.body)
