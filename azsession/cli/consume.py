"""`azsession consume`: runs a `SessionProcessor` with a function of the user in a process of its own."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..contrib.consume_click import click_error, processor_options
from ..contrib.consume_options import DESCRIPTION
from ..contrib.consume_run import ConsumeError, run_processor, summary
from ..display import plural
from ..processor import ProcessorStats, SessionProcessor
from .common import Connect, client_options, note, printable, show_json
from .health import HealthServer
from .log_output import log_options

#: Seconds between two lines of progress where stderr is not a terminal.
LINE_EVERY = 10.0


@click.command(
    short_help="Call a function for the messages of many sessions.",
    help="Call MODULE:FUNCTION with each message of QUEUE and its session.\n\n"
    f"{DESCRIPTION} With --json the counts are printed at the end.",
)
@processor_options
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Answer the probes of a service manager on this port of all addresses. /healthz says that the process lives, and "
    "/readyz whether it reaches the broker (503 if not).",
)
@client_options
@log_options
def consume(
    queue: str,
    handler: Callable[..., object],
    connect: Connect,
    as_json: bool,
    session_ids: Sequence[str],
    health_port: int | None,
    metrics_host: str,
    metrics_port: int | None,
    **options: Any,
) -> None:
    """Run the command."""
    began = time.monotonic()

    def show(stats: ProcessorStats) -> None:
        if as_json:
            show_json({"queue": queue, "seconds": round(time.monotonic() - began, 3), **attrs.asdict(stats)})
        else:
            click.echo(printable(f"{queue}: {summary(stats)}"))

    with connect() as provider:
        try:
            run_processor(
                queue,
                lambda: SessionProcessor(provider, queue, handler, session_ids=session_ids or None, **options),
                note=note,
                show=show,
                watch=lambda processor: _watched(processor, health_port),
                metrics_host=metrics_host,
                metrics_port=metrics_port,
            )
        except ConsumeError as error:
            raise click_error(error) from error


def _progress(stats: ProcessorStats) -> str:
    held = f"{plural(stats.sessions_open, 'session')} open"
    if stats.sessions_parked:
        held += f", {stats.sessions_parked} held back"
    return f"{held}; {summary(stats)}; {stats.messages_per_second:g} a second"


@contextmanager
def _watched(processor: SessionProcessor, health_port: int | None) -> Iterator[None]:
    """Show the progress, and answer probes if there is a port for them."""

    def ready() -> tuple[int, str]:
        return (200, "ready") if processor.is_ready else (503, "not ready: stopping, or without an answer of the broker")

    with ExitStack() as stack:
        if health_port is not None:
            server = stack.enter_context(HealthServer(health_port, {"/healthz": lambda: (200, "alive"), "/readyz": ready}))
            note(f"probes at http://127.0.0.1:{server.port}/healthz and /readyz")
        stack.enter_context(_progress_shown(processor))
        yield


@contextmanager
def _progress_shown(processor: SessionProcessor) -> Iterator[None]:
    """Show the counts on stderr: live on a terminal, otherwise as a line every few seconds."""
    if sys.stderr.isatty():
        with (
            Live(
                console=Console(stderr=True, highlight=False),
                get_renderable=lambda: Text(_progress(processor.stats)),
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
    """Write the log to this stream. Inside `Live`, `sys.stderr` is a stream that keeps log lines and the live view apart."""
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
        line = _progress(processor.stats)
        if line != last:
            note(line)
            last = line
