"""The examples in docs/processor.md and in the docstrings run, and the table of options is complete."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import signal
import threading
from types import ModuleType
from typing import Any

import attrs
import click
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from azsession import ProcessorStats, ServiceBusProvider, SessionProcessor
from azsession.cli.consume import consume
from azsession.processor import outcomes, processor
from azsession.testing import AzsessionServer

from ..support.paths import ROOT
from .helpers import QUEUE, left, send

PAGE = ROOT / "docs" / "processor.md"
SOURCES = [str(example.parsed) for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE).examples()]
EXAMPLES = [source for source in SOURCES if "SessionProcessor(" in source]
#: The example of a handler alone.
[HANDLER] = [source for source in SOURCES if source not in EXAMPLES]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_page_runs(
    number: int,
    azsession_server: AzsessionServer,
    azsession_provider: ServiceBusProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", azsession_server.connection_string)
    send(azsession_provider, "a", ["1", "2"])
    source = EXAMPLES[number]
    printed: list[tuple[object, ...]] = []
    both = threading.Event()

    def note(*values: object) -> None:
        printed.append(values)
        if len(printed) == 2:
            both.set()
            if "processor.run()" in source:
                os.kill(os.getpid(), signal.SIGTERM)

    # Names that hide those of the builtins.
    exec(compile(source, str(PAGE), "exec"), {"print": note, "input": lambda prompt: both.wait(30)})
    assert printed[:2] == [("a", "1"), ("a", "2")]
    assert left(azsession_provider) == 0
    if "messages_done" in source:
        assert printed[2] in ((1, "messages"), (2, "messages"))


def test_the_handler_of_the_page_dead_letters_what_does_not_fit(azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, "a", ['{"id": 1, "amount": "much"}', '{"id": 2, "amount": 12.5}'])
    handled: list[tuple[str, str]] = []
    names: dict[str, Any] = {"print": lambda *arguments: handled.append(arguments)}
    exec(compile(HANDLER, str(PAGE), "exec"), names)
    SessionProcessor(azsession_provider, QUEUE, names["handle_order"], until_empty=True).run()
    assert handled == [("a", "12.50")]
    [dead] = azsession_provider.dead_letters(QUEUE)
    assert dead.dead_letter_reason == "MalformedOrder"
    assert dead.dead_letter_description == "the body does not fit Order: amount: expected a number, found a string"


@pytest.mark.parametrize("module", [processor, outcomes], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_run(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_option_is_in_the_table_and_an_option_of_the_command() -> None:
    names = [
        name
        for name, parameter in inspect.signature(SessionProcessor).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE) == names
    options = {param.name for param in consume.params if isinstance(param, click.Option)}
    assert set(names) <= options
    assert all(f"`{field.name}`" in text for field in attrs.fields(ProcessorStats))
