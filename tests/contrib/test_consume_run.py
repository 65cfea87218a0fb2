"""The run of a consuming command: its first and last lines, and its exit status."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import requests

from azsession import (
    ConfigurationError,
    Message,
    ProcessorStats,
    QueueNotFoundError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
    ValidationError,
)
from azsession.contrib.consume_run import ConsumeError, run_processor, summary


@attrs.define
class Processor:
    """A processor that ends at once."""

    stats: ProcessorStats = attrs.field(factory=ProcessorStats)
    error: Exception | None = None

    def run(self) -> None:
        if self.error is not None:
            raise self.error


def consume(make: Callable[[], Any], shown: list[object]) -> None:
    run_processor("orders", make, note=shown.append, show=shown.append)


def fail(error: Exception) -> Callable[[], Any]:
    def make() -> Any:
        raise error

    return make


def test_the_queue_is_announced_and_the_counts_are_shown_at_the_end() -> None:
    shown: list[object] = []
    processor = Processor()
    consume(lambda: processor, shown)
    assert shown == ["consuming orders; Ctrl-C ends it", processor.stats]


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (fail(ValidationError("prefetch is wrong")), 2),
        (fail(ConfigurationError("prefetch is wrong")), 1),
        (lambda: Processor(error=QueueNotFoundError("prefetch is wrong")), 1),
    ],
)
def test_an_error_has_its_text_and_its_status(make: Callable[[], Any], status: int) -> None:
    with pytest.raises(ConsumeError, match=r"^prefetch is wrong$") as caught:
        consume(make, [])
    assert caught.value.status == status


def test_metrics_are_served_while_the_processor_runs() -> None:
    shown: list[Any] = []
    texts: list[str] = []
    with ServiceBusProvider.embedded() as provider:
        provider.send_message("orders", Message("x", session_id="s"))

        def handle(message: ReceivedMessage, session: SessionClient) -> None:
            texts.append(requests.get(shown[0].removeprefix("metrics "), timeout=10).text)

        def make() -> SessionProcessor:
            return SessionProcessor(provider, "orders", handle, until_empty=True)

        run_processor("orders", make, note=shown.append, show=shown.append, metrics_port=0)
    assert 'azsession_processor_sessions_open{queue="orders"} 1.0' in texts[0]
    assert "process_cpu_seconds_total" in texts[0]
    with pytest.raises(requests.ConnectionError):
        requests.get(shown[0].removeprefix("metrics "), timeout=10)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_no_system_has_is_a_failure(port: int) -> None:
    with pytest.raises(ConsumeError, match="cannot listen") as caught:
        run_processor("orders", Processor, note=print, show=print, metrics_port=port)
    assert caught.value.status == 1


def test_a_failure_before_the_run_comes_before_the_queue_is_announced() -> None:
    @contextmanager
    def watch(_: object) -> Iterator[None]:
        raise ConfigurationError("the port of the probes is taken")
        yield

    shown: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConsumeError, match=f"cannot listen on 127.0.0.1 port {port}"):
            run_processor("orders", Processor, note=shown.append, show=shown.append, metrics_port=port)
    with pytest.raises(ConsumeError, match="the port of the probes is taken"):
        run_processor("orders", Processor, note=shown.append, show=shown.append, watch=watch)
    assert shown == []


@pytest.mark.parametrize(("count", "words"), [(1, "1 session was released"), (2, "2 sessions were released")])
def test_a_handler_that_still_runs_is_a_failure_after_the_counts_are_shown(count: int, words: str) -> None:
    shown: list[object] = []
    with pytest.raises(ConsumeError, match=words) as caught:
        consume(lambda: Processor(ProcessorStats(sessions_open=count)), shown)
    assert caught.value.status == 1
    assert len(shown) == 2


@pytest.mark.parametrize(
    ("stats", "text"),
    [
        (ProcessorStats(), "0 messages of 0 sessions done"),
        (ProcessorStats(messages_done=1, sessions_done=1), "1 message of 1 session done"),
        (
            ProcessorStats(messages_done=3, sessions_done=2, messages_failed=1, messages_dead_lettered=4),
            "3 messages of 2 sessions done, 1 failed, 4 dead-lettered",
        ),
    ],
)
def test_the_summary_leaves_out_what_did_not_happen(stats: ProcessorStats, text: str) -> None:
    assert summary(stats) == text
