"""The page's Python is run as it stands, and its tables have every setting."""

from __future__ import annotations

import inspect
import os
import re
import signal
import threading

import attrs
import click
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from azsession import ProcessorStats, ServiceBusProvider, SessionProcessor
from azsession.cli.consume import consume
from azsession.testing import AzsessionServer

from ..support.paths import ROOT
from .helpers import left, send

PAGE = ROOT / "docs" / "processor.md"
EXAMPLES = list(Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE).examples())


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_a_python_example_runs(
    number: int,
    azsession_server: AzsessionServer,
    azsession_provider: ServiceBusProvider,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", azsession_server.connection_string)
    send(azsession_provider, "a", ["1", "2"])
    source = str(EXAMPLES[number].parsed)
    handled: list[tuple[str, str]] = []
    both = threading.Event()

    def handle(session_id: str, text: str) -> None:
        handled.append((session_id, text))
        if len(handled) == 2:
            both.set()
            if ".run()" in source:
                os.kill(os.getpid(), signal.SIGTERM)

    exec(compile(source, str(PAGE), "exec"), {"handle": handle, "wait": lambda: both.wait(10)})
    assert handled == [("a", "1"), ("a", "2")]
    assert left(azsession_provider) == 0
    if "print(" in source:
        assert capsys.readouterr().out.strip() in ("1", "2")


def test_every_setting_is_in_the_table_and_an_option_of_the_command() -> None:
    settings = [
        name
        for name, parameter in inspect.signature(SessionProcessor).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE) == settings
    options = {param.name for param in consume.params if isinstance(param, click.Option)}
    assert set(settings) <= options
    assert all(f"`{field.name}`" in text for field in attrs.fields(ProcessorStats))
