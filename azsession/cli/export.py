"""The command `azsession export`: writes the messages of a queue as JSON lines."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click

from ..client.management import each_session
from ..client.provider import ServiceBusProvider, core_of
from ..display import plural
from ..errors import SessionLockedError, UnsupportedOperationError
from ..messages import PeekedMessage
from ..new_file import NewFile
from .common import QUEUE, Connect, client_options, each_message, note, show_id, show_json
from .export_lines import DEFERRED, counted, message_line, state_line

#: Messages in one request. The server returns fewer if they are large.
_PAGE = 500
#: Sessions that an error names.
_NAMED = 5


@click.command(short_help="Write the messages of a queue as JSON lines.")
@click.argument("queue", type=QUEUE)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write this file instead of standard output.")
@click.option("--force", is_flag=True, help="Replace the file of --output if it exists.")
@click.option("--no-states", is_flag=True, help="Leave out the states of sessions. Reading a state takes the session's lock.")
@client_options
def export(queue: str, output: Path | None, force: bool, no_states: bool, connect: Connect, as_json: bool) -> None:
    """Write the session states, dead letters, deferred, active and scheduled messages of QUEUE as JSON lines.

    Nothing is received or deleted. "azsession import" reads the lines. Stop the clients of the queue first: messages that
    move while this runs can be missing, or be there twice. "azsession backup" copies a running gateway at one moment.
    """
    if force and output is None:
        raise click.UsageError("--force needs --output")
    if output is not None and not force and output.exists():
        raise _exists(output)
    with connect() as provider, ExitStack() as stack:
        if output is None:
            _Export(provider, queue, sys.stdout.buffer, states=not no_states).run()
            return
        new = stack.enter_context(NewFile(output))
        run = _Export(provider, queue, new.file, states=not no_states)
        run.write()
        try:
            new.publish(overwrite=force)
        except FileExistsError:
            raise _exists(output) from None
        if as_json:
            show_json({"queue": queue, "file": str(output), **run.counts})
        run.report()


def _exists(output: Path) -> click.ClickException:
    return click.ClickException(f"{output} exists already; --force replaces it")


class _Export:
    """Writes the lines. It keeps one page of messages in memory, and eight bytes for each deferred message.

    Attributes:
        counts: How many lines were written, by kind.
    """

    def __init__(self, provider: ServiceBusProvider, queue: str, out: BinaryIO, *, states: bool) -> None:
        self._provider = provider
        self._queue = queue
        self._out = out
        self._with_states = states
        self._locked: list[str] = []
        self.counts = {"messages": 0, "dead_letters": 0, "session_states": 0}

    def run(self) -> None:
        """Write all lines, and report."""
        self.write()
        self.report()

    def write(self) -> None:
        """Write all lines."""
        # Peeking at a queue that does not exist says so, before anything is written.
        self._provider.peek_messages(self._queue, None, 1)
        if self._with_states:
            for session in each_session(core_of(self._provider), self._queue):
                if session.has_state is not False:
                    self._write_state(session.session_id, self._locked)
        for message in each_message(lambda start: self._provider.dead_letters(self._queue, _PAGE, start)):
            self._write("dead_letters", message_line(message))
        # An import has to receive deferred messages, which is faster without active ones in front of them.
        deferred = array("q")
        for message in self._messages() if self._may_have_deferred() else ():
            if message.state == DEFERRED:
                deferred.append(message.sequence_number)
                self._write("messages", message_line(message))
        for message in self._messages():
            if not _has(deferred, message.sequence_number):
                self._write("messages", message_line(message))
        again, self._locked = self._locked, []
        for session_id in again:
            self._write_state(session_id, self._locked)
        self._out.flush()

    def report(self) -> None:
        """Say how many lines were written, and which are missing.

        Raises:
            ClickException: States could not be read.
        """
        note(f"exported {counted(self.counts)} of {self._queue}")
        if self._locked:
            names = ", ".join(map(show_id, self._locked[:_NAMED])) + (" and others" if len(self._locked) > _NAMED else "")
            raise click.ClickException(
                f"the state of {plural(len(self._locked), 'session')} of {self._queue} is missing, because clients hold "
                f"{names}: stop the clients first, or give --no-states"
            )

    def _may_have_deferred(self) -> bool:
        """Return whether there may be deferred messages. Azure does not say."""
        try:
            return self._provider.queue_statistics(self._queue).deferred_count != 0
        except UnsupportedOperationError:
            return True

    def _messages(self) -> Iterator[PeekedMessage]:
        return each_message(lambda start: self._provider.peek_messages(self._queue, None, _PAGE, start))

    def _write_state(self, session_id: str, locked: list[str]) -> None:
        try:
            with self._provider.create_session_client(self._queue, session_id) as session:
                state = session.get_session_state()
        except SessionLockedError:
            locked.append(session_id)
            return
        if state is not None:
            self._write("session_states", state_line(session_id, state))

    def _write(self, kind: str, line: bytes) -> None:
        self._out.write(line)
        self.counts[kind] += 1


def _has(numbers: array[int], number: int) -> bool:
    """Return whether sorted numbers contain one."""
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number
