"""Runs the README's Python examples against a real gateway, checks its links, and compares docs/settings.md with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from azsession.testing import AzsessionServer

from .support.paths import ROOT

README = ROOT / "README.md"
SETTINGS = ROOT / "docs" / "settings.md"
DOCUMENT = Sybil(parsers=[PythonCodeBlockParser()]).parse(README)
EXAMPLES = list(DOCUMENT.examples())


#: The output of the examples, by a part of their source.
PRINTED = {"embedded(": ["paid"]}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_each_python_example_of_the_readme_runs(
    number: int,
    azsession_server: AzsessionServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    source = str(EXAMPLES[number].parsed)
    monkeypatch.chdir(tmp_path)  # The examples write files.
    handled: list[bytes] = []
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", azsession_server.connection_string)
    names = {"CONNECTION_STRING": azsession_server.connection_string, "handle": handled.append}
    # The first example waits for 5 s at its end. The result does not depend on the length of that wait.
    exec(compile(source.replace("timeout=5", "timeout=0.1"), str(README), "exec"), names)
    with azsession_server.provider() as provider:
        assert all(session.message_count == 0 for session in provider.list_sessions("orders"))
    assert handled == ([b"paid"] if re.search(r"\bhandle\(", source) else [])
    printed: list[str] = next((words for part, words in PRINTED.items() if part in source), [])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == printed


def test_the_readme_links_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    # The reference of the API has a first page, which links to the others.
    assert [name for name in pages if f"(docs/{name})" not in text and not name.startswith("api-")] == []


def test_docs_settings_lists_exactly_the_settings_that_exist() -> None:
    from azsession import QueueSettings, ServiceBusConfig

    fields = {a.name.lstrip("_") for cls in (ServiceBusConfig, QueueSettings) for a in cls.__attrs_attrs__ if a.init}
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", SETTINGS.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == fields
