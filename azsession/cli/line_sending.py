"""`LineSender` handles the lines of a file page by page, and says how far it came. For `azsession send` and `import`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import click

from ..client.provider import ServiceBusProvider
from ..client.sending import accepted_note
from ..display import plural
from ..errors import ConnectionFailedError, QueueError, revised
from .common import note
from .json_lines import Line

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

#: The position of a message in the error of a request with several messages.
_POSITION = re.compile(r"\bmessage ([0-9]+) of [0-9]+")


def resume_option(command: F) -> F:
    """Add the option that says with which line to begin."""
    return click.option(
        "--resume-from",
        type=click.IntRange(1),
        metavar="LINE",
        help="Begin at this line of the file. An error or Ctrl-C says which line this is.",
    )(command)


class LineSender:
    """Sends the messages of lines. An error says with which line to continue.

    Use it as a context manager around all pages, so that an interrupt says it, too, also between two pages.

    Args:
        provider: The connection.
        queue: The queue.
        name: The name of the file.
        start: The number of the first line.
        noun: The word for a line that was sent.
        did: The participle of the verb.
    """

    def __init__(
        self, provider: ServiceBusProvider, queue: str, name: str, start: int, *, noun: str = "message", did: str = "sent"
    ) -> None:
        self._provider = provider
        self._queue = queue
        self._name = name
        self._noun = noun
        self._did = did
        self._sent = 0
        self._last_sent = start - 1
        #: The numbers of the lines of the page that is being handled.
        self._under_way: Sequence[int] = ()

    def __enter__(self) -> LineSender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            page = self._under_way
            note(f"interrupted: {self._progress(page or [self._last_sent + 1], len(page))}")

    def send(self, page: Sequence[Line]) -> list[str]:
        """Send the messages of a page. Return their ids.

        Raises:
            QueueError: A line was not sent. The error names it, and says how to continue.
        """
        numbers = [line.number for line in page]
        return self.handle(numbers, lambda: self._provider.send_messages(self._queue, [line.message for line in page]))

    def handle(self, numbers: Sequence[int], work: Callable[[], T], *, in_doubt: bool = False) -> T:
        """Handle a page of lines.

        Args:
            numbers: The numbers of the lines.
            work: Handles the lines. The `accepted` of its errors is the number of lines that were handled.
            in_doubt: After any error, later lines of the page may have been handled, too.

        Raises:
            QueueError: A line was not handled. The error names it, and says how to continue.
        """
        self._under_way = numbers
        try:
            done = work()
        except QueueError as error:
            raise self._named(error, numbers, in_doubt=in_doubt) from error.__cause__
        self._count(numbers)
        self._under_way = ()
        return done

    def _count(self, numbers: Sequence[int]) -> None:
        self._sent += len(numbers)
        self._last_sent = numbers[-1] if numbers else self._last_sent

    def _named(self, error: QueueError, numbers: Sequence[int], *, in_doubt: bool) -> QueueError:
        """Return the error of a page with the line that it is about, and with the progress."""
        # The error counts the messages of its page. The numbers of lines say more.
        text = str(error).removesuffix(accepted_note(error.accepted, len(numbers)))
        wrong = _POSITION.search(text)
        index = error.accepted if wrong is None else int(wrong[1]) - 1
        text = _POSITION.sub("the message", text)
        self._count(numbers[: error.accepted])
        left = numbers[error.accepted :]
        maybe = in_doubt or (isinstance(error, ConnectionFailedError) and error.maybe_delivered)
        progress = self._progress(left, len(left) if maybe else 0)
        return revised(error, f"{self._name}, line {numbers[index]}: {text}; {progress}", accepted=self._sent)

    def _progress(self, left: Sequence[int], in_doubt: int) -> str:
        """Say how many lines were sent, and how to continue.

        Args:
            left: The numbers of the next lines.
            in_doubt: How many of them may have been sent.
        """
        if not self._sent:
            parts = [f"nothing was {self._did}" if not in_doubt else f"nothing is known to be {self._did}"]
        else:
            was = "was" if self._sent == 1 else "were"
            parts = [f"{plural(self._sent, self._noun)} {was} {self._did}, up to line {self._last_sent}"]
        if in_doubt:
            parts.append(f"lines up to {left[in_doubt - 1]} may have been {self._did}, too")
        parts.append(f"continue with --resume-from {left[0]}")
        return "; ".join(parts)
