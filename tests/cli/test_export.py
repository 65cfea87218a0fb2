"""`azsession export` and `import`: from and to a gateway, and from and to Azure."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import stat
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from azsession import Message, ServiceBusConfig, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.cli.export import _Export
from azsession.queues import QueueSettings
from azsession.server import AccessKey, GatewayService, Right
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..namespaces import OwnNamespace
from ..support.processes import COMMAND, assert_one_line, environment, run, run_here, start

LATER = datetime(2099, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
ATTRIBUTES = {
    "text": "x",
    "int": -5,
    "large": 2**63,
    "float": 1.5,
    "flag": True,
    "bytes": b"\x00\xff",
    "time": LATER,
    "uuid": uuid.UUID(int=5),
    "nothing": None,
}


@pytest.fixture(params=["gateway", "Azure"])
def line(request: pytest.FixtureRequest) -> Iterator[str]:
    """A connection string, with the queues ``source`` and ``target``."""
    if request.param == "gateway":
        with GatewayService(EmbeddedBroker(queues=["source", "target"]), [AccessKey.generate()]) as service:
            yield service.connection_string()
    else:
        with OwnNamespace() as namespace:
            namespace.create_queue("source")
            namespace.create_queue("target")
            yield namespace.connection_string


@pytest.fixture
def provider(line: str) -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.from_connection_string(line) as provider:
        yield provider


def fill(provider: ServiceBusProvider) -> None:
    """Put messages in every state, dead letters and session states into ``source``."""
    messages = [
        Message(
            f"m{n}",
            session_id=f"s{n % 3}",
            message_id=f"id{n}",
            subject="subject",
            content_type="text/plain",
            correlation_id="c",
            reply_to="r",
            reply_to_session_id="rs",
            to="to",
            time_to_live=timedelta(hours=2.5),
            attributes=ATTRIBUTES,
        )
        for n in range(20)
    ]
    provider.send_messages("source", messages)
    provider.send_messages("source", [Message(bytes(range(256)), session_id="bin"), Message(b"", session_id="..")])
    provider.schedule_messages("source", [Message("later", session_id="only scheduled")], LATER)
    with provider.create_session_client("source", "s0") as session:
        first, second, third = session.receive_messages(3, timeout=10)
        session.defer_message(first)
        session.dead_letter_message(second, "bad", "because")
        session.dead_letter_message(third, "worse")
        session.set_session_state(b"\xff\x00")
    with provider.create_session_client("source", "only a state") as session:
        session.set_session_state("text")


def exported(line: str, queue: str, *arguments: str) -> list[dict[str, Any]]:
    ended = run_here("export", queue, *arguments, connection_string=line)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(text) for text in ended.stdout.splitlines()]


def kept(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lines without the fields that the server sets."""
    of_server = ("sequence_number", "enqueued_at", "delivery_count")
    return [{name: value for name, value in one.items() if name not in of_server} for one in lines]


def test_an_import_of_an_export_has_the_same_lines(line: str, provider: ServiceBusProvider, tmp_path: Path) -> None:
    fill(provider)
    file = tmp_path / "source.jsonl"
    ended = run_here("export", "source", "--output", file, "--json", connection_string=line)
    assert json.loads(ended.stdout) == {
        "queue": "source", "file": str(file), "messages": 21, "dead_letters": 2, "session_states": 2,
    }  # fmt: skip
    assert ended.stderr == "exported 21 messages, 2 dead letters, 2 session states of source\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert [one["kind"] for one in lines] == ["session_state"] * 2 + ["dead_letter"] * 2 + ["message"] * 21
    ended = run_here("import", "target", file, "--json", connection_string=line)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == {"queue": "target", "messages": 21, "dead_letters": 2, "session_states": 2}
    assert kept(exported(line, "target")) == kept(lines)
    # Nothing was received from the source, and sessions of the target arrive in order.
    assert kept(exported(line, "source")) == kept(lines)
    with provider.create_session_client("target", "s1") as session:
        received = [message.text() for message in session.messages(timeout=0)]
        assert received == [f"m{n}" for n in range(20) if n % 3 == 1]
    [deferred] = [one for one in exported(line, "target") if one.get("state") == "Deferred"]
    with provider.create_session_client("target", "s0") as session:
        assert session.get_session_state() == b"\xff\x00"
        [message] = session.receive_deferred_messages([deferred["sequence_number"]])
        assert message.text() == deferred["body"] == "m0"


def test_standard_input_can_be_a_pipe(line: str, provider: ServiceBusProvider) -> None:
    provider.send_message("source", Message("a", session_id="s"))
    text = run_here("export", "source", connection_string=line).stdout
    ended = run("import", "target", "-", connection_string=line, stdin=text.encode())
    assert (ended.returncode, ended.stdout) == (0, "imported 1 message, 0 dead letters, 0 session states into target\n")
    assert [one.text() for one in provider.peek_messages("target", "s")] == ["a"]


def test_a_session_that_a_client_holds_is_named(line: str, provider: ServiceBusProvider) -> None:
    fill(provider)
    with provider.create_session_client("source", "s0") as session:
        session.get_session_state()
        ended = run_here("export", "source", connection_string=line)
        assert ended.returncode == 1
        assert len(ended.stdout.splitlines()) == 24
        assert "the state of 1 session of source is missing, because clients hold s0: stop the clients" in ended.stderr
        assert len(exported(line, "source", "--no-states")) == 23


def test_dead_letters_are_imported_behind_active_messages_too(
    line: str, provider: ServiceBusProvider, tmp_path: Path
) -> None:
    provider.send_messages("target", [Message(f"there{n}", session_id="s") for n in range(5)])
    file = tmp_path / "lines"
    file.write_text('{"kind": "dead_letter", "session_id": "s", "body": "x", "dead_letter_reason": "bad"}\n')
    assert run_here("import", "target", file, connection_string=line).returncode == 0
    assert [(one.text(), one.dead_letter_reason) for one in provider.dead_letters("target")] == [("x", "bad")]
    with provider.create_session_client("target", "s") as session:
        received = session.receive_messages(10, timeout=10)
        assert [(one.text(), one.delivery_count) for one in received] == [(f"there{n}", 1) for n in range(5)]


# One gateway is enough


@pytest.fixture
def gateway() -> Iterator[str]:
    with GatewayService(EmbeddedBroker(auto_create=True), [AccessKey.generate()]) as service:
        yield service.connection_string()


@pytest.fixture
def direct(gateway: str) -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.from_connection_string(gateway) as provider:
        yield provider


def test_a_state_whose_session_becomes_free_meanwhile_is_exported(direct: ServiceBusProvider) -> None:
    direct.send_message("q", Message("x", session_id="s"))
    holder = direct.create_session_client("q", "s")
    holder.set_session_state("state")

    class Out(io.BytesIO):
        def write(self, line: Any) -> int:
            holder.close_session()
            return super().write(line)

    out = Out()
    _Export(direct, "q", out, states=True).run()
    assert [json.loads(line)["kind"] for line in out.getvalue().splitlines()] == ["message", "session_state"]


def test_a_consumer_does_not_receive_dead_letters_that_are_imported(
    gateway: str, direct: ServiceBusProvider, tmp_path: Path
) -> None:
    direct.create_queue("q")
    file = tmp_path / "lines"
    file.write_text('{"kind": "dead_letter", "session_id": "s", "body": "x"}\n')
    with ServiceBusProvider.from_connection_string(gateway) as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.create_session_client, "q", accept_timeout=60)
        assert run_here("import", "q", file, connection_string=gateway).returncode == 0
        assert [one.text() for one in direct.dead_letters("q")] == ["x"]
        assert not waiting.done()
        direct.send_message("q", Message("y", session_id="s"))
        with waiting.result(30) as session:
            assert [one.text() for one in session.receive_messages(10, timeout=10)] == ["y"]


def message_lines(count: int) -> str:
    return "".join(json.dumps({"kind": "message", "session_id": f"s{n % 3}", "body": str(n)}) + "\n" for n in range(count))


def test_all_lines_are_checked_before_the_first_is_sent(gateway: str, direct: ServiceBusProvider, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text(message_lines(300) + '{"kind": "message"}\n')
    ended = run_here("import", "q", file, connection_string=gateway)
    assert_one_line(ended, f"{file}, line 301: session_id is missing; nothing was imported")
    assert direct.peek_messages("q", None) == []


def test_an_error_names_the_line_and_an_import_continues_there(gateway: str, tmp_path: Path) -> None:
    key = AccessKey.generate()
    with GatewayService(EmbeddedBroker(queues=["q"]), [key], max_message_size=1000) as service:
        file = tmp_path / "lines"
        long = json.dumps({"kind": "message", "session_id": "s", "body": "x" * 2000})
        file.write_text(message_lines(150) + long + "\n" + message_lines(2))
        ended = run_here("import", "q", file, connection_string=service.connection_string())
        assert_one_line(ended, "line 151:", "100 lines were imported, up to line 100; continue with --resume-from 101")
        ended = run_here("import", "q", file, "--resume-from", "152", connection_string=service.connection_string())
        assert ended.stdout == "imported 2 messages, 0 dead letters, 0 session states into q\n"


def test_messages_that_do_not_come_back_are_an_error(direct: ServiceBusProvider, gateway: str, tmp_path: Path) -> None:
    direct.create_queue("unique", QueueSettings(requires_duplicate_detection=True))
    line = '{"kind": "dead_letter", "session_id": "s", "message_id": "same", "body": "x"}\n'
    file = tmp_path / "lines"
    file.write_text(line)
    assert run_here("import", "unique", file, connection_string=gateway).returncode == 0
    ended = run_here("import", "unique", file, connection_string=gateway)
    assert_one_line(ended, "line 1: session s: the messages were sent, but did not come back", "duplicate detection")
    assert "lines up to 1 may have been imported, too; continue with --resume-from 1" in ended.stderr


def test_a_locked_session_is_an_error_that_names_its_line(direct: ServiceBusProvider, gateway: str, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text(
        "".join(json.dumps({"kind": "session_state", "session_id": f"s{n}", "body": "x"}) + "\n" for n in range(3))
    )
    direct.send_message("q", Message("x", session_id="s1"))
    with direct.create_session_client("q", "s1") as session:
        session.get_session_state()
        ended = run_here("import", "q", file, connection_string=gateway)
    assert_one_line(
        ended, "line 2: the state of session s1:", "1 line was imported, up to line 1; continue with --resume-from 2"
    )


def test_an_import_needs_the_right_send(tmp_path: Path) -> None:
    key = AccessKey("app", "c2VjcmV0", frozenset({Right.LISTEN}))
    with GatewayService(EmbeddedBroker(queues=["q"]), [key]) as service:
        file = tmp_path / "lines"
        file.write_text(message_lines(1))
        ended = run_here("import", "q", file, connection_string=service.connection_string())
    assert_one_line(ended, "line 1: the key 'app' lacks the right Send", "nothing was imported")


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("export", "nowhere"), ("nowhere",), 1),
        (("import", "nowhere", "FILE"), ("nowhere",), 1),
        (("import", "q", "missing"), ("missing", "No such file"), 2),
        (("import", "q", "FILE", "--resume-from", "9"), ("has 1 lines", "too high"), 2),
        (("export", "q", "--force"), ("--force needs --output",), 2),
        (("export", "q", "--output", "FILE"), ("exists already; --force replaces it",), 1),
        (("export", "q", "--output", "nowhere/file"), ("No such file", "nowhere/file"), 1),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...], status: int) -> None:
    file = tmp_path / "lines"
    file.write_text(message_lines(1))
    with GatewayService(EmbeddedBroker(queues=["q"]), [AccessKey.generate()]) as service:
        given = [str(file) if argument == "FILE" else argument for argument in arguments]
        assert_one_line(run_here(*given, connection_string=service.connection_string()), *words, status=status)
    assert file.read_text() == message_lines(1)


class HoldingBroker(EmbeddedBroker):
    """Stores messages. While `holds` is true, the answers to sends do not come, from the fourth one on."""

    def __init__(self) -> None:
        super().__init__(queues=["q"])
        self.holds = True
        self.held: list[Future[None]] = []
        self._sends = 0

    def send(self, *args: Any, **options: Any) -> Future[None]:
        stored: Future[None] = super().send(*args, **options)
        self._sends += 1
        if self.holds and self._sends > 3:
            stored.result()
            stored = Future()
            self.held.append(stored)
        return stored

    def go_on(self) -> None:
        """Give the answers."""
        self.holds = False
        for answer in self.held:
            if answer.set_running_or_notify_cancel():
                answer.set_result(None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_import_can_be_continued(tmp_path: Path, number: int) -> None:
    count = 1000
    file = tmp_path / "lines"
    file.write_text(message_lines(count))
    broker = HoldingBroker()
    with GatewayService(broker, [AccessKey.generate()]) as service:
        line = service.connection_string()
        process = start("import", "q", file, connection_string=line)
        eventually(lambda: broker.held, seconds=60)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        broker.go_on()
        # The last page is stored, but the command did not hear of it.
        before = broker.get_queue("q").result().active_count
        assert before == 400
        if number == signal.SIGKILL:
            # Pages are sent whole: the number of messages says with which line to continue.
            begin = before + 1
        else:
            assert "interrupted: " in err
            begin = int(err.split("--resume-from ")[1])
            assert begin == 301
        assert run_here("import", "q", file, "--resume-from", str(begin), connection_string=line).returncode == 0
        bodies = [int(one["body"]) for one in exported(line, "q")]
        assert sorted(set(bodies)) == list(range(count))
        assert len(bodies) - count == before - (begin - 1)


def test_a_full_disk_or_a_closed_output_is_an_error(gateway: str, direct: ServiceBusProvider, tmp_path: Path) -> None:
    direct.send_messages("q", [Message("x" * 50_000, session_id="s") for _ in range(40)])
    full = subprocess.run(
        [*COMMAND, "export", "q", "--output", str(tmp_path / "file")],
        env=environment(gateway), capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )  # fmt: skip
    assert_one_line(full, "File too large")
    assert list(tmp_path.iterdir()) == []
    with open("/dev/full", "wb") as device:
        to_full = subprocess.run(
            [*COMMAND, "export", "q"], env=environment(gateway), stdout=device, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (to_full.returncode, "No space left" in to_full.stderr) == (1, True)
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run(
        [*COMMAND, "export", "q"], env=environment(gateway), stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (1, "")
    without = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "export", "q"],
        env=environment(gateway), stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (without.returncode, "standard output is closed" in without.stderr) == (1, True)


def test_large_messages_and_pages_arrive_whole(azsession_server: AzsessionServer, tmp_path: Path) -> None:
    line = azsession_server.connection_string
    with ServiceBusProvider(ServiceBusConfig(connection_string=line)) as provider:
        bodies = [os.urandom(900_000) for _ in range(25)]
        provider.send_messages("big", [Message(body, session_id=f"s{n % 2}") for n, body in enumerate(bodies)])
        file = tmp_path / "lines"
        assert run_here("export", "big", "--output", file, connection_string=line).returncode == 0
        assert run_here("import", "copy", file, connection_string=line).returncode == 0
        found: list[bytes] = []
        start = 0
        while page := provider.peek_messages("copy", None, 1000, start):
            found += [one.body for one in page]
            start = page[-1].sequence_number + 1
        assert found == bodies
