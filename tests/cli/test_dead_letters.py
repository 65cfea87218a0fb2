"""`azsession dead-letters` with a real gateway."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import Future

import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.calls import BLOCKING, CallContext
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService
from azsession.testing import AzsessionServer

from ..support.processes import PATIENCE, assert_one_line, run_here, start


def _dead_letter(provider: ServiceBusProvider, count: int) -> None:
    provider.send_messages("q", [Message(f"bad {n}", session_id="s") for n in range(count)])
    with provider.create_session_client("q", "s") as session:
        for message in session.receive_messages(count, timeout=0):
            session.dead_letter_message(message, "Unpaid", "no money")


def test_dead_letters_are_listed_resubmitted_and_deleted(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    _dead_letter(azsession_provider, 4)
    text = azsession_server.connection_string
    listed = run_here("dead-letters", "list", "q", "--max", "3", "--json", connection_string=text)
    lines = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(line["sequence_number"], line["body"], line["dead_letter_reason"]) for line in lines] == [
        (1, "bad 0", "Unpaid"),
        (2, "bad 1", "Unpaid"),
        (3, "bad 2", "Unpaid"),
    ]
    assert listed.stderr == "there are more; continue with --from 4\n"
    assert "Unpaid: no money" in run_here("dead-letters", "list", "q", connection_string=text).stdout

    assert run_here("dead-letters", "resubmit", "q", "2", connection_string=text).stdout == "resubmitted 1 dead letter of q\n"
    assert [m.text() for m in azsession_provider.peek_messages("q", "s")] == ["bad 1"]
    assert_one_line(run_here("dead-letters", "resubmit", "q", "2", connection_string=text), "no dead letter", "2")
    deleted = run_here("dead-letters", "delete", "q", "1", "3", "--json", connection_string=text)
    assert json.loads(deleted.stdout) == {"queue": "q", "deleted": 2}
    assert [m.text() for m in azsession_provider.dead_letters("q")] == ["bad 3"]


def test_resubmit_all_handles_more_dead_letters_than_one_page(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    _dead_letter(azsession_provider, 130)
    ended = run_here("dead-letters", "resubmit", "q", "--all", connection_string=azsession_server.connection_string)
    assert (ended.stdout, ended.stderr) == ("resubmitted 130 dead letters of q\n", "")
    assert azsession_provider.dead_letters("q") == []
    assert azsession_provider.list_sessions("q")[0].message_count == 130


def test_deleting_dead_letters_without_a_selection_is_wrong_usage(azsession_server: AzsessionServer) -> None:
    ended = run_here("dead-letters", "delete", "q", connection_string=azsession_server.connection_string)
    assert_one_line(ended, "--all", status=2)


def _kill(provider: ServiceBusProvider, count: int) -> list[int]:
    """Dead-letter new messages. Return their sequence numbers."""
    provider.send_messages("q", [Message(str(n), session_id="s") for n in range(count)])
    with provider.create_session_client("q", "s") as session:
        session.dead_letter_session("test")
    return [message.sequence_number for message in provider.dead_letters("q")]


@pytest.mark.parametrize(("command", "did"), [("delete", "deleted"), ("resubmit", "resubmitted")])
def test_an_error_says_what_was_done_before_it(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, command: str, did: str
) -> None:
    first, second, third = _kill(azsession_provider, 3)
    numbers = [str(number) for number in (first, second, 99, third)]
    ended = run_here("dead-letters", command, "q", *numbers, connection_string=azsession_server.connection_string)
    assert_one_line(
        ended, "there is no dead letter with sequence number 99", f"2 of 4 dead letters were {did}: {first}, {second}"
    )
    assert [message.sequence_number for message in azsession_provider.dead_letters("q")] == [third]


def test_an_error_of_a_single_one_says_nothing_more(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.create_queue("q")
    ended = run_here("dead-letters", "delete", "q", "7", connection_string=azsession_server.connection_string)
    assert ended.stderr == "azsession: there is no dead letter with sequence number 7\n"


class _StopsAtThirdDeletion(EmbeddedBroker):
    """A broker that does not answer the third deletion."""

    def __init__(self) -> None:
        super().__init__(queues=["q"])
        self.stopped = threading.Event()
        self._deletions = 0

    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = BLOCKING) -> Future[None]:
        self._deletions += 1
        if self._deletions < 3:
            return super().delete_dead_letter(entity, sequence_number, context=context)
        self.stopped.set()
        return Future()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_what_was_done(number: signal.Signals, status: int) -> None:
    broker = _StopsAtThirdDeletion()
    with GatewayService(broker, [AccessKey.generate()]) as service:
        text = service.connection_string()
        with ServiceBusProvider.from_connection_string(text) as provider:
            _kill(provider, 4)
        process = start("dead-letters", "delete", "q", "--all", connection_string=text)
        assert broker.stopped.wait(PATIENCE)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (status, "", "interrupted: 2 of 4 dead letters were deleted")


def test_the_dead_letters_of_one_session_are_listed_and_resubmitted(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    text = azsession_server.connection_string
    _dead_letter(azsession_provider, 2)
    azsession_provider.send_message("q", Message("other", session_id="t"))
    with azsession_provider.create_session_client("q", "t") as session:
        session.dead_letter_session("test")
    listed = run_here("dead-letters", "list", "q", "--session-id", "t", "--json", connection_string=text)
    assert [json.loads(line)["body"] for line in listed.stdout.splitlines()] == ["other"]
    ended = run_here("dead-letters", "resubmit", "q", "--session-id", "s", connection_string=text)
    assert ended.stdout == "resubmitted 2 dead letters of q\n"
    assert [message.text() for message in azsession_provider.peek_messages("q", "s")] == ["bad 0", "bad 1"]
    assert [message.text() for message in azsession_provider.dead_letters("q")] == ["other"]
    wrong = run_here("dead-letters", "resubmit", "q", "--session-id", "s", "--all", connection_string=text)
    assert_one_line(wrong, "only one of them", status=2)


def test_a_session_without_dead_letters_is_named(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    _dead_letter(azsession_provider, 1)
    text = azsession_server.connection_string
    assert run_here("dead-letters", "list", "q", "--session-id", "other", connection_string=text).stderr == (
        "session other of q has no dead letters\n"
    )
    assert run_here("dead-letters", "list", "q", "--session-id", "", connection_string=text).stderr == (
        "session '' of q has no dead letters\n"
    )
