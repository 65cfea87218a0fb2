"""The command `azsession top`: takes snapshots in a thread, and shows them until q is pressed."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timezone

import click
from rich.console import Console, RenderableType
from rich.live import Live

from ...client.provider import ServiceBusProvider
from ...errors import QueueError
from ..common import QUEUE, Connect, client_options, note, show_table
from .keys import Keys
from .snapshot import MAX_SESSIONS, Snapshot, take_snapshot
from .view import (
    CONSUMER_COLUMNS,
    QUEUE_COLUMNS,
    SESSION_COLUMNS,
    Status,
    consumer_rows,
    queue_rows,
    screen,
    session_rows,
    snapshot_json,
)

#: Seconds after which the screen is drawn again: times pass, and the terminal may have another size.
_REDRAW = 0.25


@click.command(short_help="Show queues, sessions and consumers, live.")
@click.option("--queue", "queues", type=QUEUE, multiple=True, metavar="NAME", help="Show this queue. Repeat it for more.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds between two updates."
)
@click.option(
    "--sort", type=click.Choice(["age", "count"]), default="age", show_default=True, help="The order of the sessions."
)
@click.option("--count", type=click.IntRange(1), help="End after this many updates.")
@client_options
def top(queues: tuple[str, ...], interval: float, sort: str, count: int | None, connect: Connect, as_json: bool) -> None:
    """Show queues, consumers and sessions, live: their messages, the oldest ones, and who holds which lock for how long.

    Press a or c to sort the sessions by age or count, and q to quit. Without a terminal it prints the numbers once; with
    --json it prints one line for each update. A list of all queues needs the right Manage, and --queue needs Listen. Azure
    tells only the sessions, and has no list of queues.
    """
    with connect() as provider:
        if as_json:
            _print_json(provider, queues, interval, count)
        elif sys.stdout.isatty():
            _Live(provider, queues, interval, sort, count).run()
        else:
            _print_tables(take_snapshot(provider, queues), sort)


def _print_json(provider: ServiceBusProvider, names: Sequence[str], interval: float, count: int | None) -> None:
    before: Snapshot | None = None
    printed = 0
    while True:
        started = time.monotonic()
        try:
            before = take_snapshot(provider, names, before)
            line = snapshot_json(before)
        except QueueError as error:
            if before is None:
                raise
            line = {"time": datetime.now(timezone.utc).isoformat(), "error": str(error)}
        click.echo(json.dumps(line))
        printed += 1
        if printed == count:
            return
        time.sleep(max(0.0, started + interval - time.monotonic()))


def _print_tables(snapshot: Snapshot, sort: str) -> None:
    show_table(QUEUE_COLUMNS, queue_rows(snapshot, snapshot.at), numbers=set(QUEUE_COLUMNS) - {"queue"})
    for columns, rows in (
        (CONSUMER_COLUMNS, consumer_rows(snapshot)),
        (SESSION_COLUMNS, session_rows(snapshot, sort, snapshot.at)),
    ):
        if rows:
            click.echo()
            numbers = set(columns) - {"session", "queue", "holder", "consumer"}
            show_table(columns, rows, numbers=numbers)
    for queue in snapshot.queues:
        if queue.has_more:
            note(f"{queue.name} has more sessions than the first {MAX_SESSIONS:,} that are shown")


class _Live:
    """The screen, and the thread that takes snapshots."""

    def __init__(
        self, provider: ServiceBusProvider, names: Sequence[str], interval: float, sort: str, count: int | None
    ) -> None:
        self._provider = provider
        self._names = names
        self._interval = interval
        self._sort = sort
        self._count = count
        self._place = repr(provider).removeprefix("<ServiceBusProvider ").removesuffix(">").removeprefix("at ")
        self._ended = threading.Event()
        self._lock = threading.Lock()  # Guards the attributes below.
        self._snapshot: Snapshot | None = None
        self._error: str | None = None
        self._taken = 0

    def run(self) -> None:
        """Show snapshots until a key ends it. The first one is taken here, so that its error ends the command."""
        self._snapshot = take_snapshot(self._provider, self._names)
        self._taken = 1
        # The thread may wait for a server that does not answer. Quitting does not wait for it.
        thread = threading.Thread(target=self._follow, name="azsession-top", daemon=True)
        console = Console(highlight=False)
        with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            thread.start()
            try:
                while not self._is_over():
                    live.update(self._screen(*console.size), refresh=True)
                    pressed = keys.wait(_REDRAW)
                    if "q" in pressed.lower():
                        return
                    self._sort = "count" if "c" in pressed.lower() else "age" if "a" in pressed.lower() else self._sort
            finally:
                self._ended.set()

    def _is_over(self) -> bool:
        with self._lock:
            return self._count is not None and self._taken >= self._count

    def _screen(self, width: int, height: int) -> RenderableType:
        with self._lock:
            snapshot, error = self._snapshot, self._error
        assert snapshot is not None
        status = Status(self._place, self._interval, self._sort, error)
        return screen(snapshot, status, datetime.now(timezone.utc), width, height)

    def _follow(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                snapshot = take_snapshot(self._provider, self._names, self._snapshot)
            except QueueError as error:
                with self._lock:
                    self._error = str(error)
                continue
            with self._lock:
                self._snapshot, self._error = snapshot, None
                self._taken += 1
