"""The header by which a load balancer finds the gateway that holds a session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import requests

from azsession import Message, ReceivedMessage, ServiceBusConfig, ServiceBusProvider, SessionClient
from azsession.client.call import Call, SessionTarget
from azsession.client.cancellation import RequestInFlight
from azsession.testing import AzsessionServer


@attrs.define
class Seen:
    """A provider, and the requests that it made."""

    provider: ServiceBusProvider
    requests: list[requests.PreparedRequest]

    def routes(self) -> set[str | None]:
        """Return the routes of the requests about sessions since the last call."""
        routes = {request.headers.get("Azsession-Route") for request in self.requests if "/sessions" in str(request.url)}
        self.requests.clear()
        return routes


@pytest.fixture
def seen(azsession_server: AzsessionServer) -> Iterator[Seen]:
    made: list[requests.PreparedRequest] = []

    def note(response: requests.Response, *_: Any, **__: Any) -> None:
        made.append(response.request)

    with requests.Session() as http:
        http.hooks["response"].append(note)
        with ServiceBusProvider(
            ServiceBusConfig(connection_string=azsession_server.connection_string), http=http
        ) as provider:
            provider.send_messages("orders", [Message(str(number), session_id="s1") for number in range(8)])
            made.clear()
            yield Seen(provider, made)


def take(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(timeout=5)
    assert message is not None
    return message


def use(session: SessionClient) -> None:
    """Send each kind of request that a holder sends."""
    session.complete_message(take(session))
    session.abandon_message(take(session))
    session.dead_letter_message(take(session), "bad")
    session.complete_messages(session.receive_messages(2))
    deferred = take(session)
    session.defer_message(deferred)
    session.receive_deferred_messages([deferred.sequence_number])
    session.set_session_state(b"1")
    session.get_session_state()
    session.set_session_state(None)
    session.renew_session_lock()
    session.dead_letter_session("rest")
    session.close_session()


@pytest.mark.parametrize("session_id", ["s1", None])
def test_all_requests_of_a_holder_have_one_route(seen: Seen, session_id: str | None) -> None:
    use(seen.provider.create_session_client("orders", session_id))
    assert len(seen.requests) > 12
    lock_ids = {str(request.headers["Azsession-Lock-Id"]) for request in seen.requests}
    (route,) = seen.routes()
    (lock_id,) = lock_ids
    assert route
    assert len(lock_id) - len(route) > 24  # The route does not reveal enough to guess the lock id.


def test_each_holder_has_its_own_route(seen: Seen) -> None:
    for _ in range(5):
        with seen.provider.create_session_client("orders", "s1") as session:
            take(session)
    assert len(seen.routes()) == 5


def test_settling_with_a_receipt_uses_the_route_of_the_holder(seen: Seen) -> None:
    with seen.provider.create_session_client("orders", None) as session:
        for settle in (SessionClient.complete_message, SessionClient.abandon_message, SessionClient.defer_message):
            message = take(session)
            holders = seen.routes()
            with seen.provider.session_from_receipt(str(message.receipt)) as elsewhere:
                settle(elsewhere, message.receipt)
            assert seen.routes() == holders


def test_a_receipt_contains_the_holders_route_and_not_its_lock_id(seen: Seen) -> None:
    with seen.provider.create_session_client("orders", "s1") as session:
        receipt = take(session).receipt
        lock_id = str(seen.requests[-1].headers["Azsession-Lock-Id"])
    assert attrs.asdict(receipt).keys() == {"handle", "expires_at", "queue_name", "session_id", "route"}
    assert lock_id not in map(str, attrs.astuple(receipt))
    assert len(receipt.route) == 8


def call(**fields: Any) -> Call[None]:
    return Call(method="GET", path="/q", entity="q", read=lambda response: None, **fields)


def test_cancelling_a_call_ends_its_attempt_and_the_pauses_between_attempts() -> None:
    made = call(stopped=threading.Event(), in_flight=RequestInFlight())
    made.cancel()
    assert made.stopped is not None
    assert made.stopped.is_set()
    assert made.in_flight is not None
    assert made.in_flight.cancelled


def test_a_call_that_is_not_sent_yet_can_be_cancelled() -> None:
    call().cancel()


def test_the_session_of_a_call_has_an_encoded_path_and_headers_for_its_lock() -> None:
    target = SessionTarget("topic/subscriptions/x", "a/b \u00e9", "lock", "route")
    assert target.path == "/topic/subscriptions/x/sessions/a%2Fb%20%C3%A9"
    assert target.headers() == {"Azsession-Lock-Id": "lock", "Azsession-Route": "route"}
