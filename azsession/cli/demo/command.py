"""`azsession demo`: shows sessions at work, and proves on the spot that each was in order and nothing lost or doubled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ...errors import ValidationError
from ..common import console, plural, printable, show_json
from ..messages import read_messages

if TYPE_CHECKING:
    # These load the gateway, which is for those who call the command.
    from .data import Roles, Sent
    from .run import Fault, Run, Seen

#: Rows of the table, and of the live view, at the most; the table sums up further sessions in one row.
MAX_ROWS = 30
MAX_LIVE_ROWS = 16
#: Columns of the table that are not the session's name, and the least that are.
OTHER_COLUMNS = 53
LEAST_NAME = 16


@click.command()
@click.option("--file", "file", type=click.File("rb"), help="Send these JSON lines: each has a session_id, and is a body.")
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Threads that take sessions.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed makes up other messages.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(file: BinaryIO | None, workers: int, seed: int, as_json: bool) -> None:
    """Send messages of many sessions, take them with many workers, and show that all is in order.

    A gateway and its broker are started in this process, on a free port of 127.0.0.1, with everything in memory. One message
    is handled for longer than its session's lock lasts, one fails and comes again, one is dead-lettered. The exit status is 1
    if a session was out of order, or a message lost or doubled.
    """
    from .data import choose_roles, from_messages, make_orders
    from .run import Run, judge

    try:
        sent = make_orders(seed) if file is None else from_messages(read_messages(file))
    except ValidationError as error:
        raise click.UsageError(str(error)) from error
    if not sent:
        raise click.UsageError(f"there is no message in {file.name if file else 'it'}")
    roles = choose_roles(sent, workers, seed)
    run = Run(sent, roles, workers)
    out = console()
    if not as_json:
        sessions = len({message.session_id for message in sent})
        what = f"{plural(len(sent), 'message')} of {plural(sessions, 'session')}, {plural(workers, 'worker')}, over HTTP"
        out.print(f"[bold]azsession demo[/]: {what}", soft_wrap=True)
    with _live(run, Console(stderr=True) if as_json else out):
        seen = run.run()
    faults = judge(sent, roles, seen)
    if as_json:
        show_json(_result(sent, seen, faults, workers, None if file else seed))
    else:
        _show(out, sent, roles, seen, faults)
    click.get_current_context().exit(1 if faults else 0)


# While it runs


def _live(run: Run, out: Console) -> AbstractContextManager[object]:
    """Return a context in which the run is shown on a terminal, and nothing is elsewhere."""
    if not out.is_terminal:
        return nullcontext()
    view = _LiveView(run)
    return Live(get_renderable=view.render, console=out, refresh_per_second=10, transient=True)


class _LiveView:
    """The run as it is at the moment: a bar, and what each worker has in hand."""

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
        now = list(run.at_work)
        for number, work in enumerate(now[:MAX_LIVE_ROWS], 1):
            name = Text(f"worker {number}", "dim")
            if work is None:
                table.add_row(name, Text("waits for a session", "dim"), "", "")
                continue
            held = time.monotonic() - work.since
            renewed = run.renewals(work.session_id)
            note = f"{held:.1f} s at it, lock renewed {_times(renewed)}" if held > 0.5 else ""
            place = f"{work.place}/{self._sizes[work.session_id]}"
            table.add_row(name, Text(printable(work.session_id), "cyan"), place, Text(note, "yellow"))
        if len(now) > MAX_LIVE_ROWS:
            table.add_row("", Text(f"and {plural(len(now) - MAX_LIVE_ROWS, 'more worker')}", "dim"), "", "")
        return Group(self._progress, table)


# When it is over


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count) or f"{count} times"


def _show(out: Console, sent: Sequence[Sent], roles: Roles, seen: Seen, faults: Sequence[Fault]) -> None:
    out.print()
    out.print(_table(sent, roles, seen, faults, out.width))
    out.print()
    for line in _explain(sent, roles, seen):
        out.print(Text(line, "dim"), soft_wrap=True)
    for fault in faults:
        where = "" if fault.session_id is None else f"{fault.session_id}: "
        out.print(Text(printable(f"{fault.kind}: {where}{fault.text}"), "red"), soft_wrap=True)
    out.print(Text(verdict(sent, seen, faults), "bold red" if faults else "bold green"), soft_wrap=True)


def _table(sent: Sequence[Sent], roles: Roles, seen: Seen, faults: Sequence[Fault], width: int) -> Table:
    """Return the table of sessions: all of them, or those with something to tell and the longest."""
    from .data import by_session
    from .run import compact

    sessions = by_session(sent)
    notes = _notes(sent, roles, faults)
    at_fault = {fault.session_id for fault in faults}
    orders = _orders(sent, seen)
    ids = list(sessions)
    if len(ids) > MAX_ROWS:
        ids.sort(key=lambda name: (name not in at_fault, name not in notes, -len(sessions[name])))
    name_width = max(LEAST_NAME, width - OTHER_COLUMNS)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Session", no_wrap=True, overflow="ellipsis")
    table.add_column("Order seen", min_width=10)
    table.add_column("Deliveries", justify="right", no_wrap=True)
    table.add_column("Renewals", justify="right", no_wrap=True)
    table.add_column("Of note")

    def add(name: str, order: str, among: Sequence[str], note: str, style: str) -> None:
        deliveries = sum(len(orders[session_id]) for session_id in among)
        renewals = sum(seen.renewals.get(session_id, 0) for session_id in among)
        shown = Text(_shorten(printable(name), name_width))
        table.add_row(shown, order, str(deliveries), str(renewals) if renewals else "", note, style=style)

    for session_id in ids[:MAX_ROWS]:
        style = "red" if session_id in at_fault else "yellow" if session_id in notes else ""
        order = compact(orders[session_id]) or "nothing"
        add(session_id, order, [session_id], ", ".join(notes.get(session_id, ())), style)
    rest = ids[MAX_ROWS:]
    if rest:
        wrong = sum(session_id in at_fault for session_id in rest)
        order = f"{wrong} at fault" if wrong else "each 1-n"
        add(f"and {plural(len(rest), 'more session')}", order, rest, "", "red" if wrong else "dim")
    return table


def _orders(sent: Sequence[Sent], seen: Seen) -> dict[str, list[int]]:
    """Return the places of what each session delivered, in the order of delivery; 0 for what was never sent."""
    places = {message.message_id: message.place for message in sent}
    orders: dict[str, list[int]] = {message.session_id: [] for message in sent}
    for delivery in seen.deliveries:
        orders.setdefault(delivery.session_id, []).append(places.get(delivery.message_id or "", 0))
    return orders


def _notes(sent: Sequence[Sent], roles: Roles, faults: Sequence[Fault]) -> dict[str, list[str]]:
    """Return what there is to tell of sessions, in a word or two."""
    notes: dict[str, list[str]] = {}
    for fault in faults:
        if fault.session_id is not None and fault.kind not in notes.setdefault(fault.session_id, []):
            notes[fault.session_id].append(fault.kind)
    special = {roles.slow: "slow", roles.failing: "came again", roles.refused: "dead-lettered"}
    for message in sent:
        if message.message_id in special:
            notes.setdefault(message.session_id, []).append(f"#{message.place} {special[message.message_id]}")
    return notes


def _explain(sent: Sequence[Sent], roles: Roles, seen: Seen) -> Iterable[str]:
    from .run import LOCK_DURATION, REASON, SLOW

    by_id = {message.message_id: message for message in sent}
    slow, failing, refused = (by_id.get(role or "") for role in (roles.slow, roles.failing, roles.refused))
    if slow is not None:
        renewed = _times(seen.renewals.get(slow.session_id, 0))
        yield f"slow: handled for {SLOW:g} s under a lock of {LOCK_DURATION:g} s, which was renewed {renewed}."
    if failing is not None:
        yield "came again: failed once and was abandoned, then delivered before the later ones."
    if refused is not None:
        yield f'dead-lettered: set aside with the reason "{REASON}".'


def verdict(sent: Sequence[Sent], seen: Seen, faults: Sequence[Fault]) -> str:
    """Return the last line: whether every session was in order and nothing lost or doubled."""
    sessions = len({message.session_id for message in sent})
    if not faults:
        outcomes = Counter(delivery.outcome for delivery in seen.deliveries)
        settled = f"{outcomes['completed']} completed, {outcomes['dead-lettered']} dead-lettered"
        every = "The one session was" if sessions == 1 else f"All {sessions} sessions were"
        return f"{every} in order, nothing was lost or doubled: {settled}, in {seen.seconds:.1f} s."
    kinds = Counter(fault.kind for fault in faults)
    other = kinds.pop("other", 0)
    counts = [f"messages {kind} in {plural(count, 'session')}" for kind, count in kinds.items()]
    if other:
        counts.append(plural(other, "other fault"))
    return f"FAILED: {', '.join(counts)}."


def _shorten(name: str, width: int) -> str:
    """Return a name that fits: ids that are alike differ at their ends, so it is cut in the middle."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def _result(sent: Sequence[Sent], seen: Seen, faults: Sequence[Fault], workers: int, seed: int | None) -> dict[str, Any]:
    from .data import by_session

    places = {message.message_id: message.place for message in sent}
    orders = _orders(sent, seen)
    sessions = []
    for session_id, messages in by_session(sent).items():
        came = [delivery for delivery in seen.deliveries if delivery.session_id == session_id]
        outcomes = Counter(delivery.outcome for delivery in came)
        sessions.append(
            {
                "session_id": session_id,
                "sent": len(messages),
                "order": orders[session_id],
                "deliveries": len(came),
                "renewals": seen.renewals.get(session_id, 0),
                "completed": outcomes["completed"],
                "abandoned": outcomes["abandoned"],
                "dead_lettered": outcomes["dead-lettered"],
            }
        )
    dead = [
        {
            "session_id": message.session_id,
            "place": places.get(message.message_id or ""),
            "reason": message.dead_letter_reason,
        }
        for message in seen.left.dead
    ]
    return {
        "ok": not faults,
        "messages": len(sent),
        "workers": workers,
        "seed": seed,
        "seconds": round(seen.seconds, 3),
        "active_left": seen.left.active,
        "dead_letters": dead,
        "faults": [{"kind": fault.kind, "session_id": fault.session_id, "text": fault.text} for fault in faults],
        "sessions": sessions,
    }
