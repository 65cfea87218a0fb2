"""Cancelling the request of another thread. The connection's next request is not disturbed."""

from __future__ import annotations

import random
import threading

import pytest
import requests

from azsession.client.cancellation import PendingCalls, RequestInFlight
from azsession.client.http_sockets import send_prepared, track_connections

from ..concurrency.servers import Handler, QuietHTTPServer


class _OK(Handler):
    def answer(self) -> None:
        self.give(200, {}, b"x" * 200)


def test_cancelling_a_request_does_not_disturb_the_next_one_on_its_connection() -> None:
    harmed: list[BaseException] = []
    all_in_flight: list[RequestInFlight] = []
    done = threading.Event()
    with QuietHTTPServer(_OK) as server, requests.Session() as http:
        url = f"{server.url}/"
        http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=2))
        track_connections(http, url, {})

        def ask() -> None:
            for _ in range(300):
                in_flight = RequestInFlight()
                all_in_flight.append(in_flight)
                request = http.prepare_request(requests.Request("GET", url))
                try:
                    assert send_prepared(http, request, in_flight, timeout=20).content == b"x" * 200
                except BaseException as error:
                    if not in_flight.cancelled:
                        harmed.append(error)

        def cancel() -> None:
            chance = random.Random(1)
            while not done.is_set():
                # Running requests, and requests that have just ended.
                for in_flight in all_in_flight[-6:]:
                    if chance.random() < 0.3:
                        in_flight.cancel()
                done.wait(0.0005)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        done.set()
        canceller.join()
    assert harmed == []
    assert any(in_flight.cancelled and in_flight.written for in_flight in all_in_flight)
    assert any(not in_flight.cancelled for in_flight in all_in_flight)


def test_cancelling_a_finished_request_does_not_close_its_connection() -> None:
    with QuietHTTPServer(_OK) as server, requests.Session() as http:
        url = f"{server.url}/"
        track_connections(http, url, {})
        finished, request = RequestInFlight(), http.prepare_request(requests.Request("GET", url))
        send_prepared(http, request, finished, timeout=20)
        finished.cancel()
        assert send_prepared(http, request, RequestInFlight(), timeout=20).status_code == 200
        assert len(server.open) == 1


def test_a_cancelled_request_is_not_sent() -> None:
    with QuietHTTPServer(_OK) as server, requests.Session() as http:
        url = f"{server.url}/"
        track_connections(http, url, {})
        in_flight = RequestInFlight()
        in_flight.cancel()
        with pytest.raises(requests.ConnectionError):
            send_prepared(http, http.prepare_request(requests.Request("GET", url)), in_flight, timeout=20)
        # The caller learns that the server did not get it.
        assert (in_flight.tracked, in_flight.written) == (True, False)


class _Pending:
    """A call that notes its cancellation."""

    def __init__(self) -> None:
        self.stopped: threading.Event | None = None
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def test_stopping_cancels_pending_calls_and_none_that_ended() -> None:
    pending, ended, waiting, late = PendingCalls(), _Pending(), _Pending(), _Pending()
    pending.add(ended)
    pending.discard(ended)
    pending.add(waiting)
    pending.stop()
    assert (ended.cancelled, waiting.cancelled) == (0, 1)
    # A call that is added later is stopped before it is sent.
    pending.add(late)
    assert late.stopped is not None
    assert late.stopped.is_set()


def test_cancelling_ends_a_wait_that_began_before_or_begins_after_it() -> None:
    ends: list[str] = []
    in_flight = RequestInFlight()
    in_flight.on_cancel(lambda: ends.append("removed"))
    in_flight.on_cancel(None)
    in_flight.on_cancel(lambda: ends.append("before"))
    in_flight.cancel()
    in_flight.on_cancel(lambda: ends.append("after"))
    assert ends == ["before", "after"]
