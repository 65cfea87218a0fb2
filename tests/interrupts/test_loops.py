"""No loop ends a round with a condition inside a ``with`` or ``try`` that must not be skipped: see `azsession.interrupts`.

Python 3.13 skips the ``with`` or ``try`` if a signal handler raises an exception there. This test reads the source, so that
it finds such a loop with every version of Python.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.paths import ROOT
from . import sweep

PACKAGE = ROOT / "azsession"
#: Code that runs in other threads only, or in processes that end at a signal.
ELSEWHERE = ("amqp", "broker/azure", "cli", "contrib", "server")
FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not str(path.relative_to(PACKAGE)).startswith(tuple(f"{folder}/" for folder in ELSEWHERE))
]


def _is_suppress(node: ast.With) -> bool:
    contexts = [item.context_expr for item in node.items]
    return all(isinstance(each, ast.Call) and getattr(each.func, "id", "") == "suppress" for each in contexts)


def _protected(node: ast.AST) -> list[ast.stmt]:
    """Return the statements inside a ``with``, or inside a ``try`` that catches every exception or has a ``finally``."""
    if isinstance(node, ast.With):
        return [] if _is_suppress(node) else node.body
    if isinstance(node, ast.Try):
        if node.finalbody:
            return [*node.body, *node.orelse, *(each for handler in node.handlers for each in handler.body)]
        if any(each.type is None or getattr(each.type, "id", "") == "BaseException" for each in node.handlers):
            return node.body
    return []


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those in it that belong to the same function."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.GeneratorExp | ast.ClassDef):
            yield from _parts(child)


def _ends_with_condition(body: list[ast.stmt]) -> bool:
    last = body[-1]
    return isinstance(last, ast.If) and (
        not last.orelse or _ends_with_condition(last.body) or _ends_with_condition(last.orelse)
    )


def _jumps_on_condition(node: ast.AST) -> bool:
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp):
        return any(each.ifs for each in node.generators)
    if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        return True
    if isinstance(node, ast.While | ast.For):
        return _ends_with_condition(node.body) or any(
            isinstance(part, ast.If) and isinstance(part.body[0], ast.Continue) for part in _parts(node)
        )
    return False


def loops_at_risk(source: str) -> list[int]:
    """Return the lines of the loops that skip a ``with`` or a ``try`` around them."""
    tree = ast.parse(source)
    inside = (part for node in ast.walk(tree) for each in _protected(node) for part in _parts(each))
    return sorted({part.lineno for part in inside if isinstance(part, ast.stmt | ast.expr) and _jumps_on_condition(part)})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_loop_can_skip_the_statement_around_it(path: Path) -> None:
    assert loops_at_risk(path.read_text(encoding="utf-8")) == [], f"move these loops of {path} into functions of their own"


@pytest.mark.parametrize(
    "loop",
    [
        "while a:\n   b()",
        "for a in b:\n   if a:\n    c()",
        "for a in b:\n   if a:\n    continue\n   c()",
        "d = [a for a in b if a]",
    ],
)
@pytest.mark.parametrize(
    "around", ["with lock:\n  {}", "try:\n  {}\n finally:\n  d()", "try:\n  {}\n except BaseException:\n  d()"]
)
def test_a_loop_at_risk_is_found(around: str, loop: str) -> None:
    assert loops_at_risk(f"def f():\n {around.format(loop)}") == [3]


@pytest.mark.parametrize(
    "loop", ["while True:\n   b()", "for a in b:\n   c()", "d = [a for a in b]", "e(lambda: [a for a in b if a])"]
)
def test_other_loops_are_allowed(loop: str) -> None:
    assert loops_at_risk(f"def f():\n with lock:\n  {loop}") == []
    assert loops_at_risk(f"def f():\n try:\n  {loop}\n except ValueError:\n  d()") == []


@pytest.mark.parametrize("loop", ["found = [str(each) for each in range(3)]", "for each in range(3): str(each)"])
def test_a_sweep_interrupts_no_loop_in_one_line_where_a_tracer_would_skip_the_statement_around_it(loop: str) -> None:
    lock = threading.Lock()
    names: dict[str, Any] = {"lock": lock}
    exec(compile(f"def call():\n with lock:\n  {loop}\n return True", f"{sweep.PACKAGE}/call.py", "exec"), names)
    for at in range(1, 10):
        assert sweep.Interrupter(at).run(names["call"]) in (None, True)
        assert not lock.locked(), at
