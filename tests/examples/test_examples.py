"""Each example runs with the command in its docstring, with all warnings as errors."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from azsession import ServiceBusProvider
from azsession.testing import AzsessionServer

from ..support.paths import ROOT
from ..support.processes import environment, run_python

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


#: Celery warns a worker that runs as root, for example in a container.
AS_ROOT = "ignore:You're running the worker with superuser privileges"


def run(name: str, connection_string: str | None = None) -> list[str]:
    """Run an example with the command in its docstring; return the lines that it printed."""
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    command = re.search(r"^    python (\S.*)$", ast.get_docstring(ast.parse(text), clean=False) or "", re.MULTILINE)
    assert command is not None, "its docstring has no command"
    environ = environment(connection_string, PYTHONPATH=str(ROOT), PYTHONWARNINGS=f"error,{AS_ROOT}")
    return run_python(*command[1].split(), environ=environ).stdout.splitlines()


def check_orders(lines: list[str]) -> None:
    steps: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        order, _, rest = line.partition(": ")
        steps[order].append(" ".join(rest.split()))
    assert steps == {
        "order-1001": ["placed 20.00 due", "paid 0.00 due", "shipped 0.00 due"],
        "order-1002": ["placed 35.00 due", "paid 5.00 due", "paid 0.00 due", "shipped 0.00 due"],
        "order-1003": [
            "placed 12.00 due",
            "shipped dead-lettered: shipped before it was paid",
            "paid dead-lettered: shipped before it was paid",
        ],
        "order-1004": ["placed 8.00 due", "cancelled 0.00 due"],
    }


def test_the_plain_script_runs_with_an_embedded_broker() -> None:
    check_orders(run("plain_script.py"))


def test_the_plain_script_runs_on_a_server(azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider) -> None:
    check_orders(run("plain_script.py", azsession_server.connection_string))
    assert len(azsession_provider.dead_letters("orders")) == 2
    assert azsession_provider.get_queue("orders").active_count == 0


def test_the_flask_app_runs() -> None:
    done: dict[str, list[str]] = defaultdict(list)
    for session_id, event, action, status in map(json.loads, run("flask_app.py")):
        assert (event, status) == ("pull_request", "204 NO CONTENT")
        done[session_id].append(action)
    assert done == {"octo-org/shop/7": ["opened", "labeled", "closed"], "octo-org/shop/8": ["opened", "closed"]}


def test_the_celery_app_runs() -> None:
    said: dict[str, list[str]] = defaultdict(list)
    for line in run("celery_app.py"):
        customer, _, what = line.partition(": ")
        said[customer].append(what)
    said["anna"].remove("a letter, 'welcome'")
    assert said["anna"] == ["+20.00 makes 20.00", "-5.00 makes 15.00", "+1.25 makes 16.25"]
    assert said["boris"] == ["+7.50 makes 7.50", "+2.50 makes 10.00"]
    assert said["carla"] == ["'12 or so' is not an amount"]


def test_every_example_has_a_test_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert SCRIPTS
    assert [script.name for script in SCRIPTS if f'run("{script.name}"' not in source] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_an_example_has_at_most_80_lines(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 80
