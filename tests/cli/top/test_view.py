"""The screen fits the terminal, and shows hostile names without harm."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone

import attrs
import pytest
from rich.cells import cell_len
from rich.console import Console

from azsession import QueueStatistics, SessionInfo
from azsession.cli.top.counters import Counters
from azsession.cli.top.snapshot import QueueNumbers, Snapshot
from azsession.cli.top.view import Status, duration, screen, snapshot_json

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=timezone.utc)
STATUS = Status("http://127.0.0.1:8720", 2.0, "age")


def snapshot_of(queues: int = 2, sessions: int = 5, holders: int = 2, name: str = "order") -> Snapshot:
    found = []
    for number in range(queues):
        statistics = QueueStatistics(
            name=f"queue-{number}",
            active_count=1_234_567,
            scheduled_count=5,
            deferred_count=0,
            dead_letter_count=7,
            session_count=sessions,
            waiting_session_count=sessions,
            locked_session_count=holders,
            oldest_enqueued_at=NOW - timedelta(minutes=3, seconds=5),
        )
        infos = [
            SessionInfo(
                f"{name}-{n}",
                10,
                NOW + timedelta(seconds=30) if n < holders else None,
                holder=f"worker:{n}, key app" if n < holders else None,
                deferred_count=0,
                oldest_enqueued_at=NOW - timedelta(hours=5, minutes=4),
            )
            for n in range(sessions)
        ]
        found.append(QueueNumbers(statistics, infos, False, -12.34))
    return Snapshot(NOW, 0.0, found)


def shown(snapshot: Snapshot, width: int = 120, height: int = 40, status: Status = STATUS) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen(snapshot, status, NOW, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_numbers_ages_locks_and_holders_are_shown() -> None:
    lines = shown(snapshot_of())
    text = "\n".join(lines)
    assert lines[0].startswith("azsession top  http://127.0.0.1:8720  ")
    for expected in ("1,234,567", "-12.3", "3 m 05 s", "5 h 04 m", "30 s", "worker:1, key app", "order-4"):
        assert expected in text
    assert [line.split()[:3] for line in lines if line.startswith("worker")] == [
        ["worker:0,", "key", "app"],
        ["worker:1,", "key", "app"],
    ]


@pytest.mark.parametrize("height", [8, 16, 24, 60])
@pytest.mark.parametrize("width", [40, 70, 100, 200])
@pytest.mark.parametrize(("queues", "sessions", "holders"), [(0, 0, 0), (1, 0, 0), (1, 1, 0), (3, 3, 3), (40, 60, 30)])
def test_the_screen_fits_the_terminal(width: int, height: int, queues: int, sessions: int, holders: int) -> None:
    lines = shown(snapshot_of(queues, sessions, holders, "naïve-日本語-" + "x" * 100), width, height)
    assert len(lines) <= max(height, 10)
    assert max(cell_len(line) for line in lines) <= width
    if queues and width >= 70:
        assert "active" in "\n".join(lines)
        assert "1,234,567" in "\n".join(lines)


def test_the_rates_of_the_gateway_are_in_the_first_line() -> None:
    snapshot = attrs.evolve(snapshot_of(), rates=Counters(1234.56, 3.0, 0.0))
    assert "sent 1,234.6/s  received 3.0/s  completed 0.0/s" in shown(snapshot)[0]
    assert snapshot_json(snapshot)["per_second"] == {"sent": 1234.56, "delivered": 3.0, "completed": 0.0}
    assert "per_second" not in snapshot_json(snapshot_of())


def test_rows_that_do_not_fit_are_counted() -> None:
    lines = shown(snapshot_of(queues=1, sessions=100, holders=0), height=30)
    assert len(lines) == 30
    rows = sum(line.startswith("order-") for line in lines)
    assert lines[-1].strip() == f"+{100 - rows} more"


def test_an_error_and_the_age_of_the_numbers_are_shown() -> None:
    status = Status("x", 2.0, "count", "no answer from\x1b[31m there")
    assert "numbers of 0 s ago: no answer from\\x1b[31m there" in shown(snapshot_of(), status=status)[0]
    assert "sorted by count" in shown(snapshot_of(), status=Status("x", 2.0, "count"))[0]


def test_control_characters_of_clients_do_not_reach_the_terminal() -> None:
    text = "\n".join(shown(snapshot_of(name="\x1b]0;owned\x07\u202e")))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;owned\\x07" in text


def test_json_has_everything_that_is_known() -> None:
    found = snapshot_json(snapshot_of(queues=1, sessions=1))
    assert found["time"] == "2026-01-01T12:00:00+00:00"
    [queue] = found["queues"]
    assert (queue["name"], queue["active_count"], queue["active_change_per_second"]) == ("queue-0", 1_234_567, -12.34)
    assert queue["sessions"] == [
        {
            "session_id": "order-0",
            "message_count": 10,
            "locked_until": "2026-01-01T12:00:30+00:00",
            "holder": "worker:0, key app",
            "deferred_count": 0,
            "oldest_enqueued_at": "2026-01-01T06:56:00+00:00",
        }
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.4, "0 s"), (59.6, "1 m 00 s"), (185, "3 m 05 s"), (3600, "1 h 00 m"), (90000, "1 d 01 h")],
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
