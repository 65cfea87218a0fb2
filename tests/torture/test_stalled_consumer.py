"""A real history in which a client closes its session after its lock expired, and before it noticed that."""

from __future__ import annotations

import json
import mmap
import time
from pathlib import Path

import attrs

from azsession import Message, QueueSettings
from azsession.testing import AzsessionServer

from .checker import check
from .history import OK, History, Operation
from .process import Process


def test_a_session_closed_after_its_lock_expired_is_no_reason_to_suspect_the_gateway(
    azsession_server: AzsessionServer, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.write_bytes(b"\0")
    provider = azsession_server.provider()
    provider.create_queue("orders", QueueSettings(lock_duration=1.0))
    sent = time.monotonic()
    provider.send_message("orders", Message("text", session_id="s", message_id="a"))
    send = Operation("s", "send", "", "s", sent, time.monotonic(), OK, {"ids": ["a"]})
    with (tmp_path / "log").open("wb") as log, go.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as shared:
        script = ["tests.torture.stalled_consumer", azsession_server.connection_string, str(go)]
        consumer = Process(script, "p", log, {})
        assert consumer.first_line() == b"received\n", (tmp_path / "log").read_text()
        begin = time.monotonic()
        with provider.create_session_client("orders", accept_timeout=30.0) as session:
            accepted = time.monotonic()
            [message] = session.receive_messages(10, 10.0)
            received = time.monotonic()
            shared[0] = 1
            times = json.loads(consumer.first_line())
            session.complete_message(message)
            completed = time.monotonic()
        consumer.end()
    # The client did not report a lost lock, although the message went to another holder before the session was closed.
    assert times["lost"] == []
    assert times["lock_until"] < received < times["closed"]
    early = {"messages": times["messages"]}
    late = {"messages": [[message.message_id, message.sequence_number, message.delivery_count]]}
    numbers = {"sequences": [message.sequence_number]}
    close = Operation("p", "close", "p.1", "s", times["closed"], times["closed"], OK, {"lock_until": times["lock_until"]})
    operations = [
        send,
        Operation("p", "accept", "p.1", "s", times["begin"], times["accepted"], OK),
        Operation("p", "receive", "p.1", "s", times["accepted"], times["received"], OK, {}, early),
        Operation("q", "accept", "q.1", "s", begin, accepted, OK),
        Operation("q", "receive", "q.1", "s", accepted, received, OK, {}, late),
        close,
        Operation("q", "complete", "q.1", "s", received, completed, OK, numbers),
    ]
    assert check(History(operations, [])) == []
    # Without the client's own time, and with a lock that lasted longer, the same history has an unexplained duplicate.
    for about in ({}, {"lock_until": received + 0.001}):
        operations[5] = attrs.evolve(close, about=about)
        assert [violation.kind for violation in check(History(operations, []))] == ["duplicate"]
