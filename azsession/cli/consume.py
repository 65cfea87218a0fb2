"""`azsession consume`: a `SessionProcessor` with a function of the user's, as a process of its own."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..contrib.consume_options import processor_options
from ..processor import ProcessorStats, SessionProcessor
from .common import Connect, client_options, note, plural, printable, show_json

#: Seconds between two lines where there is no terminal to show a live view on.
LINE_EVERY = 10.0


@click.command(short_help="Call a function for the messages of many sessions.")
@processor_options
@client_options
def consume(
    queue: str,
    handler: Callable[..., object],
    connect: Connect,
    as_json: bool,
    session_ids: Sequence[str],
    **options: Any,
) -> None:
    """Call MODULE:FUNCTION with each message of QUEUE, and its session: many sessions at once, each in order.

    Where it returns, the message is completed. SIGTERM and Ctrl-C let it finish what it has in hand, and release all
    sessions; a second one gives up what still runs. With --json the counts are printed at the end.
    """
    with connect() as provider:
        processor = SessionProcessor(provider, queue, handler, session_ids=session_ids or None, **options)
        note(f"consuming {queue}; Ctrl-C ends it")
        began = time.monotonic()
        with _shown(processor):
            processor.run()
    stats = processor.stats
    if as_json:
        show_json({"queue": queue, "seconds": round(time.monotonic() - began, 3), **attrs.asdict(stats)})
    else:
        click.echo(printable(f"{queue}: {_summary(stats)}"))
    if stats.sessions_open:
        note(f"given up while its handler ran: {plural(stats.sessions_open, 'session')}")
        click.get_current_context().exit(1)


def _summary(stats: ProcessorStats) -> str:
    parts = [f"{plural(stats.messages_done, 'message')} of {plural(stats.sessions_done, 'session')} done"]
    if stats.messages_failed:
        parts.append(f"{stats.messages_failed} failed")
    if stats.messages_dead_lettered:
        parts.append(f"{stats.messages_dead_lettered} dead-lettered")
    return ", ".join(parts)


def _now(stats: ProcessorStats) -> str:
    held = f"{plural(stats.sessions_open, 'session')} open"
    if stats.sessions_parked:
        held += f", {stats.sessions_parked} held back"
    return f"{held}; {_summary(stats)}; {stats.messages_per_second:g} a second"


@contextmanager
def _shown(processor: SessionProcessor) -> Iterator[None]:
    """Show what the processor does, on stderr: live on a terminal, else in a line now and then."""
    if sys.stderr.isatty():
        with (
            Live(
                console=Console(stderr=True, highlight=False),
                get_renderable=lambda: Text(_now(processor.stats)),
                refresh_per_second=4,
                transient=True,
            ),
            _logged_to(sys.stderr),
        ):
            yield
        return
    ended = threading.Event()
    lines = threading.Thread(target=_write_lines, args=(processor, ended), daemon=True)
    lines.start()
    try:
        yield
    finally:
        ended.set()
        lines.join()


@contextmanager
def _logged_to(stream: Any) -> Iterator[None]:
    """Have the log written to what stands for stderr now, which knows of the live view."""
    handlers = [handler for handler in logging.root.handlers if isinstance(handler, logging.StreamHandler)]
    before = [(handler, handler.setStream(stream)) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in before:
            if stream is not None:
                handler.setStream(stream)


def _write_lines(processor: SessionProcessor, ended: threading.Event) -> None:
    last = ""
    while not ended.wait(LINE_EVERY):
        line = _now(processor.stats)
        if line != last:
            note(line)
            last = line
