"""How `azsession top` shows a snapshot: as a screen that fits the terminal, as tables, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...errors import printable
from ..common import plain_json, show_id
from .snapshot import QueueNumbers, Snapshot, consumers, sorted_sessions

#: Rows of the queues and of the consumers at most, as parts of the height of the screen.
_QUEUES_PART, _CONSUMERS_PART = 3, 5
#: Lines of a screen besides the rows of tables: the title, the keys, the headers of tables and the lines between them.
_OTHER_LINES = 7
#: Seconds without new numbers after which their age is shown, in intervals.
_OLD = 2.5

QUEUE_COLUMNS = (
    *("queue", "active", "change/s", "scheduled", "deferred", "dead"),
    *("sessions", "waiting", "locked", "oldest"),
)
SESSION_COLUMNS = ("session", "queue", "messages", "deferred", "oldest", "lock left", "holder")
CONSUMER_COLUMNS = ("consumer", "sessions", "messages")
#: Columns that are aligned to the left, and that get the remaining width.
_TEXTS = {"queue": 2, "session": 3, "holder": 3, "consumer": 1}
#: The width of these columns at least.
_TEXT_WIDTH = 12
#: Columns that a narrow terminal does not show. The first ones are left out first.
_DISPENSABLE = ("scheduled", "deferred", "change/s", "waiting", "dead", "queue", "holder")


@attrs.frozen
class Status:
    """The contents of the first line.

    Attributes:
        place: Where the server is.
        interval: Seconds between two snapshots.
        sort: ``age`` or ``count``.
        error: Why there are no newer numbers, or `None`.
    """

    place: str
    interval: float
    sort: str
    error: str | None = None


def screen(snapshot: Snapshot, status: Status, now: datetime, width: int, height: int) -> RenderableType:
    """Return the contents of a terminal of this size."""
    rows = max(3, height - _OTHER_LINES)
    queues = queue_rows(snapshot, now)
    held_by = consumer_rows(snapshot)
    shown_queues = _limited(queues, max(1, rows // _QUEUES_PART))
    shown_consumers = _limited(held_by, max(1, rows // _CONSUMERS_PART))
    left = rows - len(shown_queues) - len(shown_consumers) + (0 if held_by else 2)
    parts: list[RenderableType] = [_title(snapshot, status, now), Text(), _table(QUEUE_COLUMNS, shown_queues, width)]
    if held_by:
        parts += [Text(), _table(CONSUMER_COLUMNS, shown_consumers, width)]
    sessions = _limited(session_rows(snapshot, status.sort, now, max(1, left)), max(1, left), _session_count(snapshot))
    parts += [Text(), _table(SESSION_COLUMNS, sessions, width) if sessions else Text("no sessions", style="dim")]
    return Group(*parts)


def _title(snapshot: Snapshot, status: Status, now: datetime) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("azsession top", style="bold").append(f"  {status.place}  {now.astimezone():%H:%M:%S}  ")
    age = (now - snapshot.at).total_seconds()
    if status.error is not None:
        text.append(f"numbers of {duration(age)} ago: {printable(status.error)}  ", style="bold red")
    elif age > _OLD * status.interval + 1.0:
        text.append(f"numbers of {duration(age)} ago  ", style="yellow")
    if snapshot.rates is not None:
        found = snapshot.rates
        text.append(f"sent {found.sent:,.1f}/s  received {found.delivered:,.1f}/s  completed {found.completed:,.1f}/s  ")
    other = "c by count" if status.sort == "age" else "a by age"
    return text.append(f"sorted by {status.sort}   {other}   q quit", style="dim")


def queue_rows(snapshot: Snapshot, now: datetime) -> list[list[str]]:
    """Return the cells of the table of queues."""
    rows = []
    for queue in snapshot.queues:
        found = queue.statistics
        numbers = (found.scheduled_count, found.deferred_count, found.dead_letter_count, found.session_count)
        rows.append(
            [
                printable(found.name),
                _number(found.active_count),
                "" if queue.change is None else f"{queue.change:+,.1f}" if queue.change else "0",
                *map(_number, numbers),
                _number(found.waiting_session_count),
                _number(found.locked_session_count),
                _age(found.oldest_enqueued_at, now),
            ]
        )
    return rows


def session_rows(snapshot: Snapshot, sort: str, now: datetime, most: int | None = None) -> list[list[str]]:
    """Return the cells of the table of sessions; the first `most`."""
    return [
        [
            printable(show_id(row.info.session_id)),
            printable(row.queue),
            _number(row.info.message_count),
            _number(row.info.deferred_count),
            _age(row.info.oldest_enqueued_at, now),
            "" if row.info.locked_until is None else duration((row.info.locked_until - now).total_seconds()),
            printable(row.info.holder or ""),
        ]
        for row in sorted_sessions(snapshot, sort)[:most]
    ]


def consumer_rows(snapshot: Snapshot) -> list[list[str]]:
    """Return the cells of the table of consumers."""
    return [[printable(one.name), _number(one.sessions), _number(one.messages)] for one in consumers(snapshot)]


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as a JSON object."""
    rates = None if snapshot.rates is None else {name: round(one, 3) for name, one in attrs.asdict(snapshot.rates).items()}
    queues = [_queue_json(queue) for queue in snapshot.queues]
    return plain_json({"time": snapshot.at, "per_second": rates, "queues": queues})


def _queue_json(queue: QueueNumbers) -> dict[str, Any]:
    numbers = plain_json(attrs.asdict(queue.statistics))
    sessions = [plain_json(attrs.asdict(info)) for info in queue.sessions]
    change = None if queue.change is None else round(queue.change, 3)
    return {**numbers, **plain_json({"active_change_per_second": change}), "sessions": sessions}


def duration(seconds: float) -> str:
    """Return a duration in two units at most, for example ``3 m 05 s``."""
    left = max(0, round(seconds))
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if left >= size:
            return f"{left // size} {unit} {left % size // smaller_size:02} {smaller}"
    return f"{left} s"


def _age(instant: datetime | None, now: datetime) -> str:
    return "" if instant is None else duration((now - instant).total_seconds())


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _session_count(snapshot: Snapshot) -> int:
    return sum(len(queue.sessions) for queue in snapshot.queues)


def _limited(rows: Sequence[list[str]], most: int, total: int | None = None) -> list[list[str]]:
    """Return the first rows. The last one says how many are left out, if there is room for two."""
    total = len(rows) if total is None else total
    if total <= most or most < 2:
        return list(rows[:most])
    return [*rows[: most - 1], [f"+{total - most + 1:,} more"]]


def _table(columns: Sequence[str], rows: Sequence[list[str]], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    shown = _fitting(columns, rows, width)
    for name in (columns[at] for at in shown):
        ratio = _TEXTS.get(name)
        table.add_column(name, justify="left" if ratio else "right", no_wrap=True, overflow="ellipsis", ratio=ratio)
    for row in rows:
        is_held = columns is SESSION_COLUMNS and len(row) == len(columns) and row[5] != ""
        cells = (Text(row[at]) for at in shown if at < len(row))
        table.add_row(*cells, style="cyan" if is_held else "dim" if len(row) == 1 else "")
    return table


def _fitting(columns: Sequence[str], rows: Sequence[list[str]], width: int) -> list[int]:
    """Return the columns that fit a width, by their numbers. The first one is always there."""
    widths = {
        at: max(
            _TEXT_WIDTH if name in _TEXTS else len(name),
            *(len(row[at]) for row in rows if at < len(row) and name not in _TEXTS),
            1,
        )
        for at, name in enumerate(columns)
    }
    shown = list(widths)
    for name in _DISPENSABLE:
        if sum(widths[at] + 2 for at in shown) - 2 <= width:
            break
        shown = [at for at in shown if at == 0 or columns[at] != name]
    return shown
