"""Shows the demo: a live view while it runs, and the table of sessions with explanations at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ...display import plural
from ..common import printable
from .data import Roles, Sent, by_session
from .run import LOCK_DURATION, SLOW, Run
from .verdict import REASON, Fault, Record, compact

#: Largest number of rows in the table and in the live view. One more row sums up the other sessions.
MAX_ROWS = 30
MAX_LIVE_ROWS = 16
#: Width of all columns except the session id, and the smallest width of the session id.
OTHER_COLUMNS = 57
MIN_ID_WIDTH = 16


# The live view


def live_view(run: Run, out: Console) -> AbstractContextManager[object]:
    """Return a context that shows the run on a terminal. On another output it shows nothing."""
    if not out.is_terminal:
        return nullcontext()
    view = _LiveView(run)
    return Live(get_renderable=view.render, console=out, refresh_per_second=10, transient=True)


class _LiveView:
    """A progress bar, and the current work of each worker."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._progress = Progress(
            TextColumn("settled"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn(), expand=True
        )
        self._task = self._progress.add_task("settled", total=len(run.sent))
        self._sizes = Counter(message.session_id for message in run.sent)

    def render(self) -> RenderableType:
        run = self._run
        self._progress.update(self._task, completed=run.settled)
        table = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 3, None, 4):
            table.add_column(ratio=ratio, no_wrap=True, overflow="ellipsis")
        current = list(run.current_work)
        for number, work in enumerate(current[:MAX_LIVE_ROWS], 1):
            name = Text(f"worker {number}", "dim")
            if work is None:
                table.add_row(name, Text("waits for a session", "dim"), "", "")
                continue
            elapsed = time.monotonic() - work.since
            renewed = _times(run.renewals(work.session_id))
            note = f"busy for {elapsed:.1f} s, lock renewed {renewed}" if elapsed > 0.5 else ""
            place = f"{work.place}/{self._sizes[work.session_id]}"
            table.add_row(name, Text(printable(work.session_id), "cyan"), place, Text(note, "yellow"))
        if len(current) > MAX_LIVE_ROWS:
            table.add_row("", Text(f"and {plural(len(current) - MAX_LIVE_ROWS, 'more worker')}", "dim"), "", "")
        return Group(self._progress, table)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count) or f"{count} times"


# The result


def show_result(out: Console, sent: Sequence[Sent], roles: Roles, record: Record, faults: Sequence[Fault]) -> None:
    """Print the table of sessions, the explanations, the faults and the verdict."""
    out.print()
    out.print(_table(sent, roles, record, faults, out.width))
    out.print()
    for line in _explanations(sent, roles, record):
        out.print(Text(line, "dim"), soft_wrap=True)
    for fault in faults:
        where = "" if fault.session_id is None else f"{fault.session_id}: "
        out.print(Text(printable(f"{fault.kind}: {where}{fault.text}"), "red"), soft_wrap=True)
    out.print(Text(verdict(sent, record, faults), "bold red" if faults else "bold green"), soft_wrap=True)


@attrs.frozen
class _Row:
    """One row of the table: a session, or several sessions summed up."""

    name: str
    order: str
    sessions: Sequence[str]
    note: str
    style: str


def _table(sent: Sequence[Sent], roles: Roles, record: Record, faults: Sequence[Fault], width: int) -> Table:
    """Return the table of sessions."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Session", no_wrap=True, overflow="ellipsis")
    table.add_column("Order received", min_width=10)
    table.add_column("Deliveries", justify="right", no_wrap=True)
    table.add_column("Renewals", justify="right", no_wrap=True)
    table.add_column("Notes")
    orders = received_orders(sent, record)
    id_width = max(MIN_ID_WIDTH, width - OTHER_COLUMNS)
    for row in _rows(sent, roles, orders, faults):
        deliveries = sum(len(orders[session_id]) for session_id in row.sessions)
        renewals = sum(record.renewals.get(session_id, 0) for session_id in row.sessions)
        shown = Text(_shorten(printable(row.name), id_width))
        table.add_row(shown, row.order, str(deliveries), str(renewals) if renewals else "", row.note, style=row.style)
    return table


def _rows(sent: Sequence[Sent], roles: Roles, orders: dict[str, list[int]], faults: Sequence[Fault]) -> Iterable[_Row]:
    """Return a row for each session. If there are too many, choose those with faults, with notes, and the longest."""
    sessions = by_session(sent)
    notes = _notes(sent, roles, faults)
    faulty = {fault.session_id for fault in faults}
    ids = list(sessions)
    if len(ids) > MAX_ROWS:
        ids.sort(key=lambda name: (name not in faulty, name not in notes, -len(sessions[name])))
    for session_id in ids[:MAX_ROWS]:
        style = "red" if session_id in faulty else "yellow" if session_id in notes else ""
        order = compact(orders[session_id]) or "nothing"
        yield _Row(session_id, order, [session_id], ", ".join(notes.get(session_id, ())), style)
    rest = ids[MAX_ROWS:]
    if rest:
        wrong = sum(session_id in faulty for session_id in rest)
        order = f"{wrong} with faults" if wrong else "each 1-n"
        yield _Row(f"and {plural(len(rest), 'more session')}", order, rest, "", "red" if wrong else "dim")


def received_orders(sent: Sequence[Sent], record: Record) -> dict[str, list[int]]:
    """Return the places of the messages that each session delivered, in order. A message that was not sent has place 0."""
    places = {message.message_id: message.place for message in sent}
    orders: dict[str, list[int]] = {message.session_id: [] for message in sent}
    for delivery in record.deliveries:
        orders.setdefault(delivery.session_id, []).append(places.get(delivery.message_id or "", 0))
    return orders


def _notes(sent: Sequence[Sent], roles: Roles, faults: Sequence[Fault]) -> dict[str, list[str]]:
    """Return a few words about each session that has a fault or a message with a special role."""
    notes: dict[str, list[str]] = {}
    for fault in faults:
        if fault.session_id is not None and fault.kind not in notes.setdefault(fault.session_id, []):
            notes[fault.session_id].append(fault.kind)
    special = {roles.slow: "slow", roles.failing: "redelivered", roles.refused: "dead-lettered"}
    for message in sent:
        if message.message_id in special:
            notes.setdefault(message.session_id, []).append(f"#{message.place} {special[message.message_id]}")
    return notes


def _explanations(sent: Sequence[Sent], roles: Roles, record: Record) -> Iterable[str]:
    by_id = {message.message_id: message for message in sent}
    slow, failing, refused = (by_id.get(role or "") for role in (roles.slow, roles.failing, roles.refused))
    if slow is not None:
        renewed = _times(record.renewals.get(slow.session_id, 0))
        yield f"slow: took {SLOW:g} s with a lock of {LOCK_DURATION:g} s, which was renewed {renewed}"
    if failing is not None:
        yield "redelivered: failed once and was abandoned, then was delivered again before later messages"
    if refused is not None:
        yield f'dead-lettered: moved to the dead-letter queue with the reason "{REASON}"'


def verdict(sent: Sequence[Sent], record: Record, faults: Sequence[Fault]) -> str:
    """Return the last line: whether every session was in order and nothing was lost or doubled."""
    sessions = len({message.session_id for message in sent})
    if not faults:
        outcomes = Counter(delivery.outcome for delivery in record.deliveries)
        settled = f"{outcomes['completed']} completed, {outcomes['dead-lettered']} dead-lettered"
        every = "The one session was" if sessions == 1 else f"All {sessions} sessions were"
        return f"{every} in order, nothing was lost or doubled: {settled}, in {record.seconds:.1f} s."
    kinds = Counter(fault.kind for fault in faults)
    other = kinds.pop("other", 0)
    counts = [f"messages {kind} in {plural(count, 'session')}" for kind, count in kinds.items()]
    if other:
        counts.append(plural(other, "other fault"))
    return f"FAILED: {', '.join(counts)}."


def _shorten(name: str, width: int) -> str:
    """Return a name that fits. Cut it in the middle, because similar ids usually differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"
