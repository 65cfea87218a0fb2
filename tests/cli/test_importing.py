"""How an import divides its lines. `test_export` runs it."""

from __future__ import annotations

from azsession import Message
from azsession.cli.common import PAGE
from azsession.cli.export_lines import Exported, ExportedMessage, ExportedState
from azsession.cli.importing import _pages

ACTIVE = ExportedMessage(Message("x", session_id="s"), "s")
DEFERRED = ExportedMessage(Message("x", session_id="s"), "s", is_deferred=True)
DEAD = ExportedMessage(Message("x", session_id="s"), "s", is_dead=True)
STATE = ExportedState("s", b"x")


def sizes(lines: list[Exported]) -> list[list[int]]:
    return [[number for number, _ in page] for page in _pages(iter(enumerate(lines, 1)))]


def test_a_page_has_lines_of_one_kind_in_their_order() -> None:
    assert sizes([STATE, DEAD, DEAD, DEFERRED, ACTIVE, ACTIVE, DEAD]) == [[1], [2, 3], [4], [5, 6], [7]]
    assert sizes([]) == []


def test_a_page_is_bounded_in_lines_and_bytes() -> None:
    assert [len(page) for page in sizes([ACTIVE] * (2 * PAGE + 1))] == [PAGE, PAGE, 1]
    large = ExportedMessage(Message(b"x" * 9_000_000, session_id="s"), "s")
    assert sizes([large] * 5) == [[1, 2], [3, 4], [5]]
