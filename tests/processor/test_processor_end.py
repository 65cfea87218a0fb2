"""A processor that ends by itself, because of an error that another attempt cannot resolve."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from azsession import (
    AuthenticationFailedError,
    DeadLetter,
    DeadLetterSession,
    Message,
    QueueNotFoundError,
    ServiceBusProvider,
    SessionNotFoundError,
    SessionProcessor,
)
from azsession.broker.embedded import EmbeddedBroker
from azsession.processor import permanence
from azsession.server import AccessKey, GatewayService
from azsession.testing import AzsessionServer

from ..conftest import eventually
from .helpers import QUEUE, Seen, send

#: The arguments of `on_error`.
Reports = queue.SimpleQueue[tuple[BaseException, Any, Any]]


@pytest.fixture
def owner() -> Iterator[ServiceBusProvider]:
    """A provider of a gateway that creates no further queues."""
    with (
        GatewayService(EmbeddedBroker(queues=[QUEUE]), [AccessKey.generate()]) as service,
        ServiceBusProvider.from_connection_string(service.connection_string()) as provider,
    ):
        yield provider


@pytest.mark.parametrize("session_ids", [None, ["a"]])
def test_a_deleted_queue_is_reported_when_a_background_processor_ends(
    owner: ServiceBusProvider,
    caplog: pytest.LogCaptureFixture,
    session_ids: list[str] | None,
) -> None:
    reports: Reports = queue.SimpleQueue()
    processor = SessionProcessor(owner, QUEUE, Seen(), on_error=lambda *report: reports.put(report), session_ids=session_ids)
    processor.start()
    send(owner, "a", ["1"])
    eventually(lambda: processor.stats.messages_done == 1)
    owner.delete_queue(QUEUE)
    error, session, message = reports.get(timeout=60)
    while session is not None:
        # The processor can hold the session when the queue is deleted.
        assert isinstance(error, SessionNotFoundError)
        error, session, message = reports.get(timeout=60)
    assert (type(error), message) == (QueueNotFoundError, None)
    assert reports.empty()
    records = [
        record
        for record in caplog.records
        if record.levelno == logging.ERROR and record.name.startswith("azsession.processor")
    ]
    assert [record.getMessage() for record in records] == [f"the session processor of {QUEUE!r} ends: {error}"]
    with pytest.raises(QueueNotFoundError):
        processor.stop()


def test_without_a_hook_the_end_of_a_background_processor_is_logged_once(
    owner: ServiceBusProvider, caplog: pytest.LogCaptureFixture
) -> None:
    processor = SessionProcessor(owner, QUEUE, Seen())
    processor.start()
    owner.delete_queue(QUEUE)
    eventually(lambda: "ends: " in caplog.text, seconds=60)
    with pytest.raises(QueueNotFoundError):
        processor.stop()
    assert caplog.text.count("there is no queue") == 1


def test_run_passes_the_error_to_the_hook_and_raises_it_without_a_log_line(
    owner: ServiceBusProvider, caplog: pytest.LogCaptureFixture
) -> None:
    owner.delete_queue(QUEUE)
    reports: list[BaseException] = []
    processor = SessionProcessor(owner, QUEUE, Seen(), on_error=lambda error, *_: reports.append(error))
    with pytest.raises(QueueNotFoundError) as raised:
        processor.run()
    assert reports == [raised.value]
    assert "ends: " not in caplog.text


def test_a_wrong_key_ends_the_processor_after_some_time(
    azsession_server: AzsessionServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"Endpoint={azsession_server.url}/;SharedAccessKeyName=nobody;SharedAccessKey=bm8="
    reports: Reports = queue.SimpleQueue()
    with ServiceBusProvider.from_connection_string(text) as provider:
        processor = SessionProcessor(
            provider, QUEUE, Seen(), max_concurrent_sessions=2, on_error=lambda *report: reports.put(report)
        )
        processor.start()
        # The first refusal is reported at once, and the end when it comes.
        assert type(reports.get(timeout=60)[0]) is AuthenticationFailedError
        assert "ends: " not in caplog.text
        monkeypatch.setattr(permanence, "REFUSED_PATIENCE", 0.0)
        assert type(reports.get(timeout=60)[0]) is AuthenticationFailedError
        with pytest.raises(AuthenticationFailedError):
            processor.stop()
    assert reports.empty()


def test_a_hook_can_stop_the_processor_that_ends(owner: ServiceBusProvider) -> None:
    ended = threading.Event()

    def on_error(*_: object) -> None:
        assert processor.stop() is False
        ended.set()

    processor = SessionProcessor(owner, QUEUE, Seen(), on_error=on_error)
    processor.start()
    owner.delete_queue(QUEUE)
    assert ended.wait(60)
    with pytest.raises(QueueNotFoundError):
        processor.stop()


@pytest.mark.parametrize("exception", [DeadLetter, DeadLetterSession])
@pytest.mark.parametrize(
    ("reason", "stored"), [("T" * 5000, "T" * 4095 + "…"), ("bad \ud800 text", "bad ? text"), ("T" * 4096, "T" * 4096)]
)
def test_a_reason_that_cannot_be_stored_is_changed_and_the_message_is_dead_lettered(
    azsession_provider: ServiceBusProvider,
    caplog: pytest.LogCaptureFixture,
    exception: type[DeadLetter],
    reason: str,
    stored: str,
) -> None:
    def handle(message: object, session: object) -> None:
        raise exception(reason, reason)

    azsession_provider.send_message(QUEUE, Message("x", session_id="a"))
    with SessionProcessor(azsession_provider, QUEUE, handle) as processor:
        eventually(lambda: processor.stats.messages_dead_lettered == 1)
    [dead] = azsession_provider.dead_letters(QUEUE)
    assert (dead.dead_letter_reason, dead.dead_letter_description, dead.delivery_count) == (stored, stored, 1)
    changed = "is cut to 4096 characters" in caplog.text
    assert changed == (stored != reason)
    assert "T" * 100 not in caplog.text
