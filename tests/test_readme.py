"""The README's Python is run as it stands, against a real gateway."""

from __future__ import annotations

import re

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from azsession.testing import AzsessionServer

from .support.paths import ROOT

README = ROOT / "README.md"
DOCUMENT = Sybil(parsers=[PythonCodeBlockParser()]).parse(README)
EXAMPLES = list(DOCUMENT.examples())


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_a_python_example_runs(
    number: int,
    azsession_server: AzsessionServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pytester: pytest.Pytester,
) -> None:
    source = str(EXAMPLES[number].parsed)
    if "def test_" in source:
        pytester.makepyfile(source)
        pytester.runpytest_inprocess("-p", "no:randomly").assert_outcomes(passed=1)
        return
    handled: list[bytes] = []
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", azsession_server.connection_string)
    names = {"CONNECTION_STRING": azsession_server.connection_string, "handle": handled.append}
    # The first example waits for 5 s at its end; what it shows does not depend on how long.
    exec(compile(source.replace("timeout=5", "timeout=0.1"), str(README), "exec"), names)
    with azsession_server.provider() as provider:
        assert all(session.message_count == 0 for session in provider.list_sessions("orders"))
    if "handle(" in source:
        assert handled == [b"paid"]
    if "print(" in source:
        assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["placed", "paid", "packed"]


def test_every_setting_of_the_tables_exists() -> None:
    from azsession import QueueSettings, ServiceBusConfig

    fields = {a.name.lstrip("_") for cls in (ServiceBusConfig, QueueSettings) for a in cls.__attrs_attrs__ if a.init}
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == fields
