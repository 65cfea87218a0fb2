"""`azsession send` with a real gateway."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.calls import BLOCKING, CallContext
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService
from azsession.testing import AzsessionServer

from ..conftest import WEBHOOKS
from ..support.processes import PATIENCE, assert_one_line, run, run_here, start


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_send_sends_a_file_line_by_line_and_receive_keeps_the_order(
    azsession_server: AzsessionServer, webhooks: list[dict[str, Any]]
) -> None:
    text = azsession_server.connection_string
    sent = run("send", "hooks", "--file", WEBHOOKS, "--json", connection_string=text)
    assert (sent.returncode, sent.stderr) == (0, "")
    [report] = _lines(sent.stdout)
    assert (report["queue"], report["sent"], report["sessions"]) == ("hooks", 329, 70)
    assert len(set(report["message_ids"])) == 329

    expected: dict[str, list[str]] = {}
    for line, hook in zip(WEBHOOKS.read_text(encoding="utf-8").splitlines(), webhooks, strict=True):
        expected.setdefault(hook["session_id"], []).append(line)
    listed = run("sessions", "hooks", "--json", connection_string=text)
    assert {line["session_id"]: line["message_count"] for line in _lines(listed.stdout)} == {
        session: len(lines) for session, lines in expected.items()
    }

    longest = max(expected, key=lambda session: len(expected[session]))
    received = run("receive", "hooks", longest, "--complete", "--max", "1000", "--json", connection_string=text)
    assert [line["body"] for line in _lines(received.stdout)] == expected[longest]
    left = run("sessions", "hooks", "--json", connection_string=text)
    assert longest not in {line["session_id"] for line in _lines(left.stdout)}


def test_send_names_a_malformed_line_and_sends_nothing(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text('{"session_id": "a"}\n{"session_id": "b"\n', encoding="utf-8")
    ended = run("send", "q", "--file", file, connection_string=azsession_server.connection_string)
    assert_one_line(ended, f"{file}, line 2: not JSON", "column 19", "nothing was sent")
    assert azsession_provider.list_sessions("q") == []


def test_send_reads_standard_input_and_applies_session_id_to_lines_without_one(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    ended = run_here(
        "send", "q", "--file", "-", "--session-id", "rest",
        connection_string=azsession_server.connection_string, stdin=b'{"n": 1}\n{"n": 2, "session_id": "own"}\n',
    )  # fmt: skip
    assert ended.stdout == "sent 2 messages in 2 sessions to q\n"
    assert {info.session_id for info in azsession_provider.list_sessions("q")} == {"rest", "own"}


def test_a_missing_file_is_wrong_usage(azsession_server: AzsessionServer) -> None:
    ended = run_here("send", "q", "--file", "missing.jsonl", connection_string=azsession_server.connection_string)
    assert_one_line(ended, "missing.jsonl", "No such file", status=2)


@pytest.fixture
def narrow() -> Iterator[str]:
    """The connection string of a gateway that accepts messages of 1000 bytes."""
    with GatewayService(EmbeddedBroker(auto_create=True), [AccessKey.generate()], max_message_size=1000) as service:
        yield service.connection_string()


def _write(file: Path, numbers: Sequence[int], *, large: int) -> None:
    """Write a line for each number, after an empty line. The line of `large` is too large for `narrow`."""
    texts = [json.dumps({"session_id": 1, "n": n, "pad": "x" * (2000 if n == large else 1)}) for n in numbers]
    file.write_text("\n" + "\n".join(texts) + "\n", encoding="utf-8")


def test_an_error_names_its_line_and_the_file_is_continued_there(narrow: str, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    _write(file, range(250), large=204)
    failed = run_here("send", "q", "--file", file, connection_string=narrow)
    # The request with the wrong message was refused as a whole, so some lines before it were not sent either.
    sent = "200 messages were sent, up to line 201; continue with --resume-from 202"
    assert_one_line(failed, f"{file}, line 206: the body of the message has ", sent)
    _write(file, range(250), large=-1)
    rest = run_here("send", "q", "--file", file, "--resume-from", "202", connection_string=narrow)
    assert rest.stdout == "sent 50 messages in 1 session to q\n"
    with (
        ServiceBusProvider.from_connection_string(narrow) as provider,
        provider.create_session_client("q", "1") as session,
    ):
        bodies = [json.loads(message.body)["n"] for message in session.receive_messages(1000, timeout=0)]
    assert bodies == list(range(250))


def test_an_error_of_the_first_line_says_that_nothing_was_sent(narrow: str, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    _write(file, range(3), large=0)
    failed = run_here("send", "q", "--file", file, connection_string=narrow)
    assert_one_line(failed, f"{file}, line 2: ", "nothing was sent; continue with --resume-from 2")


def test_all_lines_are_checked_before_the_first_is_sent(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    file = tmp_path / "orders.jsonl"
    good = '{"s": 1, "meta": {}}\n' * 150
    file.write_text(good + '{"s": 1, "meta": {"a": {}}}\n', encoding="utf-8")
    azsession_provider.create_queue("q")
    ended = run_here(
        "send", "q", "--file", file, "--session-id-field", "s", "--attributes-field", "meta",
        connection_string=azsession_server.connection_string,
    )  # fmt: skip
    assert_one_line(ended, f"{file}, line 151: meta cannot be the attributes", "nothing was sent")
    assert azsession_provider.list_sessions("q") == []


class _StopsAtSecondSend(EmbeddedBroker):
    """A broker that does not answer from the second send on."""

    def __init__(self) -> None:
        super().__init__(queues=["q"])
        self.stopped = threading.Event()
        self._sends = 0

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[None]:
        self._sends += 1
        if self._sends == 1:
            return super().send(entity, messages, request_id, context=context)
        self.stopped.set()
        return Future()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_says_what_was_accepted(tmp_path: Path, number: signal.Signals, status: int) -> None:
    file = tmp_path / "orders.jsonl"
    _write(file, range(250), large=-1)
    broker = _StopsAtSecondSend()
    with GatewayService(broker, [AccessKey.generate()]) as service:
        process = start("send", "q", "--file", str(file), connection_string=service.connection_string())
        assert broker.stopped.wait(PATIENCE)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (status, "")
    assert err.strip() == (
        "interrupted: 100 messages were sent, up to line 101; lines up to 201 may have been sent, too; "
        "continue with --resume-from 102"
    )


@pytest.mark.parametrize("option", ["--session-id-field", "--subject-field", "--attributes-field", "--resume-from"])
def test_an_option_of_files_needs_a_file(option: str) -> None:
    ended = run_here("send", "q", "--body", "x", "--session-id", "s", option, "7")
    assert_one_line(ended, "need --file", status=2)


def test_a_line_behind_the_end_is_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text('{"session_id": 1}\n', encoding="utf-8")
    ended = run_here("send", "q", "--file", file, "--resume-from", "2")
    assert_one_line(ended, "has 1 lines, so --resume-from 2 is too high", status=2)


def test_the_subject_and_the_attributes_arrive(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text('{"id": 5, "kind": "paid", "meta": {"n": 1.5, "ok": true}}', encoding="utf-8")
    ended = run_here(
        "send", "q", "--file", file, "--session-id-field", "id", "--subject-field", "kind", "--attributes-field", "meta",
        connection_string=azsession_server.connection_string,
    )  # fmt: skip
    assert ended.stdout == "sent 1 message in 1 session to q\n"
    [message] = azsession_provider.peek_messages("q", "5")
    assert (message.subject, message.attributes) == ("paid", {"n": 1.5, "ok": True})
