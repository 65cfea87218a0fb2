"""docs/celery.md: its Python runs, and its tables are complete."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attrs
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from azsession import ServiceBusConfig
from azsession.cli.celery_dispatch import celery_dispatch
from azsession.contrib.celery import session_task
from azsession.testing import AzsessionServer

from ...support.paths import ROOT
from ...support.processes import environment, run_python

PAGE = ROOT / "docs" / "celery.md"
TEXT = PAGE.read_text(encoding="utf-8")

BEFORE = """
handled = []


def handle(*what):
    handled.append(what)

"""
# A worker would do this after the example has sent its task.
MEANWHILE = """
charge(str(message.receipt), message.text())
session.close()
assert handled.pop() == ("charge", "paid")
assert not current_provider(app).list_sessions("orders")
"""


def test_the_code_of_the_page_runs(azsession_server: AzsessionServer, tmp_path: Path) -> None:
    blocks = [str(example.parsed) for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE).examples()]
    assert len(blocks) == 5
    (tmp_path / "shop.py").write_text(blocks[0].replace("redis://localhost", "memory://"))
    script = tmp_path / "script.py"
    script.write_text("\n".join([BEFORE, *blocks[1:4], MEANWHILE, blocks[4]]))
    environ = environment(azsession_server.connection_string, PYTHONPATH=str(ROOT))
    said = run_python("-W", "error", script, environ=environ).stdout
    assert said.splitlines()[-1] == "order-43 sent"


def rows(heading: str) -> list[str]:
    """Return the first column of all tables of a section."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_every_key_of_the_setting_is_in_the_table() -> None:
    fields = [field.name for field in attrs.fields(ServiceBusConfig) if field.init]
    assert sorted(rows("Settings")) == sorted([*fields, "credential", "embedded"])


def test_every_option_of_a_session_task_is_in_the_table() -> None:
    parameters = inspect.signature(session_task).parameters.values()
    assert rows("Session tasks") == [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]


def test_every_option_of_the_dispatcher_is_in_the_table() -> None:
    options = [option.opts[-1] for option in celery_dispatch.params if option.param_type_name == "option"]
    assert rows("The dispatcher") == [option for option in options if option != "--app"]
