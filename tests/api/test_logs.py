"""The log records of the client and the processor: which events there are, their fields, and that none shows a secret."""

from __future__ import annotations

import logging
import threading

import pytest

from azsession import DeadLetter, Message, ReceivedMessage, ServiceBusProvider, SessionClient, SessionProcessor
from azsession.client.session import holder_of
from azsession.logs import FIELDS

from .conftest import Arrangement, send, take

BODY = "a body that no log may show"
Fields = tuple[str | None, str | None, int | None]


def records(caplog: pytest.LogCaptureFixture, text: str) -> list[tuple[int, Fields]]:
    """Return the level and the fields of each record of the client or the processor whose text has `text`."""
    return [
        (record.levelno, tuple(getattr(record, name) for name in FIELDS))  # type: ignore[misc]
        for record in caplog.records
        if text in record.getMessage() and record.name.startswith(("azsession.client", "azsession.processor"))
    ]


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "azsession")


def test_each_request_is_logged_with_queue_and_session(
    provider: ServiceBusProvider, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(provider, queue, BODY)
    with provider.create_session_client(queue, "s1") as session:
        session.complete_message(take(session))
    assert records(caplog, "send: status 201") == [(logging.DEBUG, (queue, None, None))]
    for operation in ("receive: status 201", "complete: status 204", "release: status 204"):
        assert records(caplog, operation) == [(logging.DEBUG, (queue, "s1", None))]


def test_a_session_that_is_taken_renewed_and_released_is_logged(
    provider: ServiceBusProvider, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(provider, queue, BODY)
    with provider.create_session_client(queue, accept_timeout=10) as session:
        assert records(caplog, "took the session 's1'") == [(logging.INFO, (queue, "s1", None))]
        lock = holder_of(session).lock
        lock.refresh(lock._refreshed_by, lock.seconds_left() + 1)
        session.renew_session_lock()
        take(session)
    assert len(records(caplog, "took the session")) == 1
    assert records(caplog, "renew: status") == [(logging.DEBUG, (queue, "s1", None))]
    assert records(caplog, "released the session 's1'") == [(logging.INFO, (queue, "s1", None))]


def test_a_dead_letter_is_logged_with_its_sequence_number(
    provider: ServiceBusProvider, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(provider, queue, BODY, BODY, BODY)
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        session.dead_letter_message(message, "Malformed")
        assert records(caplog, ": Malformed") == [(logging.INFO, (queue, "s1", message.sequence_number))]
        session.dead_letter_session("Gone")
    assert records(caplog, "dead-lettered 2 messages of") == [(logging.INFO, (queue, "s1", None))]


def test_a_lost_lock_is_logged_once(arrangement: Arrangement, caplog: pytest.LogCaptureFixture) -> None:
    queue = arrangement.queue(lock_duration=5)
    provider = arrangement.provider()
    session = provider.create_session_client(queue, "s1", auto_renew=False)
    session.receive_message(timeout=0)
    lock = holder_of(session).lock
    # The client believes that its lock has ended.
    lock.refresh(lock._refreshed_by + 1.0, -60.0)
    assert session.is_lock_lost
    assert session.is_lock_lost
    session.close()
    assert records(caplog, "the lock of the session 's1'") == [(logging.INFO, (queue, "s1", None))]


def test_the_processor_logs_its_start_its_stop_and_failed_messages(
    provider: ServiceBusProvider, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(provider, queue, "1", session_id="good")
    send(provider, queue, "2", session_id="poison")
    send(provider, queue, "3", session_id="bad")
    failed = threading.Event()

    def handle(message: ReceivedMessage, session: SessionClient) -> None:
        if session.session_id == "poison":
            raise DeadLetter("Malformed")
        if session.session_id == "bad" and not failed.is_set():
            failed.set()
            raise ValueError("on purpose")

    SessionProcessor(provider, queue, handle, max_concurrent_sessions=2, until_empty=True).run()
    about_queue = [(logging.INFO, (queue, None, None))]
    assert records(caplog, f"the session processor of {queue!r} starts with 2 slots") == about_queue
    assert records(caplog, f"the session processor of {queue!r} has stopped") == about_queue
    ((level, (name, session_id, number)),) = records(caplog, "of session 'bad' failed")
    assert (level, name, session_id) == (logging.ERROR, queue, "bad")
    assert number
    assert records(caplog, ": Malformed")[0][1][:2] == (queue, "poison")


def test_every_record_has_the_fields_and_none_shows_a_body_a_key_or_a_token(
    arrangement: Arrangement, caplog: pytest.LogCaptureFixture
) -> None:
    queue, provider = arrangement.queue(), arrangement.provider()
    hostile = "s1\nERROR forged \x1b[31m"
    provider.send_messages(queue, [Message(BODY, session_id=hostile, attributes={"note": BODY}) for _ in range(4)])
    session = provider.create_session_client(queue, hostile)
    message, other = take(session), take(session)
    secrets = [BODY, message.receipt.handle, str(message.receipt)[6:], holder_of(session).lock.lock_id]
    session.complete_message(message)
    session.abandon_message(other)
    session.dead_letter_message(take(session), "bad")
    session.set_session_state(BODY.encode())
    session.close()
    provider.close()
    fields = dict(part.split("=", 1) for part in arrangement.connection_string.split(";") if part)
    secrets += [value for name, value in fields.items() if name == "SharedAccessKey"]
    ours = [record for record in caplog.records if record.name.startswith("azsession")]
    assert len(ours) > 8
    for record in ours:
        assert all(hasattr(record, name) for name in FIELDS), record
        text = record.getMessage()
        assert text.isprintable(), text
        shown = f"{text} {record.__dict__}"
        assert not [secret for secret in secrets if secret in shown], text
        assert "sig=" not in shown
