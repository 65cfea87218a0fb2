"""The live view and the result table of the demo."""

from __future__ import annotations

import io

import attrs
import pytest
from rich.console import Console

from azsession.cli.demo.data import Roles, Sent, from_messages
from azsession.cli.demo.display import live_view, show_result
from azsession.cli.demo.run import Run
from azsession.cli.demo.verdict import Record, judge

from .helpers import message, perfect, small


def test_the_live_view_shows_the_workers_on_a_terminal() -> None:
    sent, roles = small()
    run = Run(sent, roles, 2)
    screen = io.StringIO()
    with live_view(run, Console(file=screen, force_terminal=True, width=80)):
        run.run()
    assert "settled" in screen.getvalue()
    assert "worker 2" in screen.getvalue()


def shown(sent: list[Sent], roles: Roles, record: Record, width: int = 80) -> list[str]:
    page = io.StringIO()
    show_result(Console(file=page, width=width, highlight=False), sent, roles, record, judge(sent, roles, record))
    return page.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_of_many_sessions_with_long_ids_fits_the_width(width: int) -> None:
    sent = from_messages(message(f"{'organization/' * 8}{number}") for number in range(90))
    roles = Roles(None, sent[40].message_id, sent[50].message_id)
    lines = shown(sent, roles, perfect(sent, roles), width)
    table = lines[: lines.index("", 1)]
    assert max(map(len, table)) <= width
    assert sum("organi" in line for line in table) == 30
    assert table[-1].split() == ["and", "60", "more", "sessions", "each", "1-n", "60"]
    assert "redelivered" in table[2]
    assert "/40" in table[2]


def test_a_session_id_is_not_interpreted_as_markup() -> None:
    sent = from_messages([message("[red]a[/red]")])
    assert "[red]a[/red]" in "".join(shown(sent, Roles(), perfect(sent, Roles())))


def test_a_fault_is_shown_with_its_session() -> None:
    sent = from_messages([message("a", n=1), message("b", n=1), message("a", n=2)])
    record = perfect(sent, Roles())
    lines = shown(sent, Roles(), attrs.evolve(record, deliveries=[record.deliveries[0], record.deliveries[1]]))
    assert "lost: a: 2 arrived too few times" in lines
    assert lines[-1] == "FAILED: messages lost in 1 session."
