"""docs/flask.md: its Python runs from the files that it names, and its tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from azsession import Message, ServiceBusProvider
from azsession.contrib import flask as contrib
from azsession.testing import AzsessionServer

from ...conftest import eventually
from ...support.paths import ROOT
from ...support.processes import PATIENCE, environment, run_python

PAGE = ROOT / "docs" / "flask.md"
#: The page's files, by the names in their first lines.
FILES = {
    source.split("\n", 1)[0].removeprefix("# "): source
    for source in (str(example.parsed) for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE).examples())
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with all of the page's files."""
    assert set(FILES) == {"shop.py", "consumer.py", "work.py", "conftest.py", "test_shop.py"}
    for name, source in FILES.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    return tmp_path


def environment_of(connection_string: str | None) -> dict[str, str]:
    return environment(connection_string, PYTHONPATH=str(ROOT), PYTHONWARNINGS="error")


def run(place: Path, *arguments: str, connection_string: str | None = None) -> str:
    """Run Python in the folder to its end, and return its output."""
    return run_python(*arguments, environ=environment_of(connection_string), cwd=place).stdout


def test_the_tests_of_the_page_pass_without_a_server(place: Path) -> None:
    assert "2 passed" in run(place, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "test_shop.py")


def test_the_quickstart_sends_and_consumes(
    place: Path, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    send = "import shop; [shop.create_app().test_client().post(f'/orders/{order}') for order in (42, 43)]"
    run(place, "-c", send, connection_string=azsession_server.connection_string)
    [command] = re.findall(r"^(flask --app .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    with subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        cwd=place,
        env={**environment_of(azsession_server.connection_string), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            eventually(lambda: azsession_provider.get_queue("orders").active_count == 0, seconds=60)
        finally:
            process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "consuming orders; Ctrl-C ends it\n")
    # Threads print at the same time, so lines can be mixed.
    assert (out.count("placed"), "orders: 2 messages of" in out) == (2, True)


def test_processors_in_code_consume(
    place: Path, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("orders", Message("placed", session_id="42"))
    azsession_provider.send_message("returns", Message("sent back", session_id="42"))
    script = """
import time
from consumer import app, azsession, consume

def until_done():
    while any(azsession.provider.get_queue(name).active_count for name in ("orders", "returns")):
        time.sleep(0.01)

with app.app_context():
    consume(until_done)
"""
    out = run(place, "-u", "-c", script, connection_string=azsession_server.connection_string)
    assert (out.count("placed"), out.count("sent back")) == (1, 1)


def test_work_is_handed_out_in_one_request_and_settled_in_another(
    place: Path, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_server.create_queue("orders", lock_duration=6)
    azsession_provider.send_messages("orders", [Message(text, session_id="42") for text in ("placed", "paid")])
    script = """
import time
from shop import azsession, create_app
from work import handed_out, work

def app():
    app = create_app()
    app.register_blueprint(work)
    return app.test_client()

one, other = app(), app()
placed, paid = one.post("/work").json["messages"]
assert (placed["text"], paid["text"], len(handed_out)) == ("placed", "paid", 1)
assert other.post("/done", data={"receipt": placed["receipt"]}).status_code == 204
while handed_out:
    time.sleep(0.01)
assert other.post("/done", data={"receipt": paid["receipt"]}).status_code == 410
[again] = other.post("/work").json["messages"]
assert one.post("/done", data={"receipt": again["receipt"]}).status_code == 204
"""
    run(place, "-c", script, connection_string=azsession_server.connection_string)
    assert azsession_provider.get_queue("orders").active_count == 0


def test_the_tables_have_every_setting_and_option() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(AZSESSION_[A-Z_]+)` \|", text, re.MULTILINE)) == set(contrib.STYLE.keys)
    listed = set(re.findall(r"^\| `(--[a-z-]+)` \|", text, re.MULTILINE))
    options = [each for each in contrib._commands.commands["consume"].params if isinstance(each, click.Option)]
    assert all(listed & set(option.opts) for option in options)
    assert len(listed) == len(options)
