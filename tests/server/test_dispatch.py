"""`Gateway` and `Request` without a transport."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from azsession.broker.calls import BLOCKING, CallContext, wait_for
from azsession.broker.embedded import EmbeddedBroker
from azsession.errors import AuthenticationFailedError, ValidationError
from azsession.messages import ReceivedMessage
from azsession.protocol.routes import NoRouteError, Operation, Route
from azsession.protocol.sas import generate_sas_token
from azsession.server.answer import Answer, PendingAnswer
from azsession.server.authorization import Guard
from azsession.server.dispatch import Gateway, parse_query
from azsession.server.request import DEFAULT_TIMEOUT, MAX_TIMEOUT, Headers, Request

from .raw import MANAGE

ONE_SESSION = Headers([("brokerPROPERTIES", '{"SessionId": "s"}')])


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(queues=["q"]) as broker:
        yield broker


@pytest.fixture
def open_gateway(broker: EmbeddedBroker) -> Gateway:
    """A gateway without a guard, as for clients in the same process."""
    return Gateway(broker, max_body_size=100)


def ask(gateway: Gateway, method: str, target: str, body: bytes = b"", headers: Headers | None = None) -> Answer:
    return gateway.handle(method, target, headers or Headers(), body, BLOCKING)


def error_of(answer: Answer) -> tuple[int, str]:
    assert answer.body is not None
    return answer.status, json.loads(answer.body)["error"]["code"]


def test_handle_returns_messages_that_are_not_encoded(open_gateway: Gateway) -> None:
    assert ask(open_gateway, "POST", "/q/messages", b"x", ONE_SESSION).status == 201
    answer = ask(open_gateway, "DELETE", "/q/sessions/s/messages/head?timeout=0")
    assert answer.body is None
    assert answer.messages is not None
    assert [message.body for message in answer.messages] == [b"x"]
    assert answer.encoded().body == b"x"


def test_header_names_have_no_case_and_attributes_keep_theirs(open_gateway: Gateway) -> None:
    headers = Headers([("BROKERPROPERTIES", '{"SessionId": "s"}'), ("myAttribute", '"y"'), ("AZSESSION-LOCK-ID", "a")])
    assert headers.get("azsession-lock-id") == headers.get("Azsession-Lock-Id") == "a"
    ask(open_gateway, "POST", "/q/messages", b"x", headers)
    answer = ask(open_gateway, "GET", "/q/sessions/s/messages")
    assert answer.messages is not None
    assert answer.messages[0].attributes == {"myAttribute": "y"}


def test_handle_answers_errors_instead_of_raising_them(open_gateway: Gateway) -> None:
    assert error_of(ask(open_gateway, "GET", "/nowhere/sessions/at/all")) == (404, "InvalidRequest")
    assert error_of(ask(open_gateway, "PATCH", "/q")) == (405, "NotSupported")
    assert error_of(ask(open_gateway, "GET", "/missing")) == (404, "EntityNotFound")
    assert error_of(ask(open_gateway, "POST", "/q/messages", b"x" * 101, ONE_SESSION)) == (413, "MessageTooLarge")


def test_complete_answers_like_the_request_of_the_protocol(open_gateway: Gateway) -> None:
    for _ in range(2):
        ask(open_gateway, "POST", "/q/messages", b"x", ONE_SESSION)
    answer = ask(open_gateway, "DELETE", "/q/sessions/s/messages/head?timeout=0&max=2")
    assert answer.messages is not None
    first, second = [message.receipt.handle for message in answer.messages if isinstance(message, ReceivedMessage)]
    assert ask(open_gateway, "POST", f"/q/sessions/s/messages/{second}/$defer").status == 204

    def completed(entity: str, token: str) -> Answer:
        return open_gateway.complete(entity, "s", token, BLOCKING, wait_for)

    assert (completed("q", first), completed("q", first)) == (Answer(204), Answer(204))
    for entity, token in (("q", second), ("q", "unknown"), ("missing", first)):
        assert completed(entity, token) == ask(open_gateway, "DELETE", f"/{entity}/sessions/s/messages/{token}")
        assert completed(entity, token).status >= 400


def test_admit_checks_the_token_before_it_tells_what_is_wrong_with_the_path(broker: EmbeddedBroker) -> None:
    gateway = Gateway(broker, Guard([MANAGE]))
    token = generate_sas_token("https://here", MANAGE.name, MANAGE.key, int(time.time()) + 60)
    signed = Headers([("Host", "here"), ("Authorization", token)])
    for path, error in (("/q/messages/else", NoRouteError), ("/a%20b", ValidationError)):
        with pytest.raises(AuthenticationFailedError):
            gateway.admit("GET", path, "", Headers([("Host", "here")]))
        with pytest.raises(error):
            gateway.admit("GET", path, "", signed)


def test_admit_checks_the_token_before_the_query(broker: EmbeddedBroker) -> None:
    gateway = Gateway(broker, Guard([MANAGE]))
    with pytest.raises(AuthenticationFailedError):
        gateway.admit("GET", "/q", "a=1&a=2", Headers())


def test_admit_needs_no_token_for_health(broker: EmbeddedBroker) -> None:
    admitted = Gateway(broker, Guard([MANAGE])).admit("GET", "/healthz", "", Headers())
    assert (admitted.route.operation, admitted.query, admitted.key) == (Operation.HEALTH, {}, None)


@pytest.mark.parametrize("query", ["a=1&a=2", "a=%FF", "&".join(f"a{number}=1" for number in range(17)), "a=1&" * 40 + "a=1"])
def test_a_malformed_query_is_refused(query: str) -> None:
    with pytest.raises(ValidationError):
        parse_query(query)


def test_the_timeout_is_shortened_to_the_callers_deadline() -> None:
    def timeout(query: dict[str, str], context: CallContext) -> float:
        return Request(Route(Operation.RECEIVE), query, Headers(), b"", context).timeout

    assert timeout({}, BLOCKING) == DEFAULT_TIMEOUT
    assert timeout({"timeout": "7"}, BLOCKING) == 7
    half = MAX_TIMEOUT / 2
    assert half / 2 < timeout({"timeout": str(MAX_TIMEOUT)}, CallContext(deadline=time.monotonic() + half)) <= half
    assert timeout({"timeout": "7"}, CallContext(deadline=time.monotonic() - 1)) == 0


def test_deferred_messages_whose_answer_cannot_be_written_are_given_back(
    open_gateway: Gateway, broker: EmbeddedBroker
) -> None:
    holder = Headers([("Azsession-Lock-Id", "6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c")])
    assert ask(open_gateway, "POST", "/q/messages", b"x", ONE_SESSION).status == 201
    received = ask(open_gateway, "DELETE", "/q/sessions/s/messages/head?timeout=0", headers=holder)
    assert received.messages is not None
    (message,) = received.messages
    assert isinstance(message, ReceivedMessage)
    token, number = message.receipt.handle, message.sequence_number
    assert ask(open_gateway, "POST", f"/q/sessions/s/messages/{token}/$defer", headers=holder).status == 204
    admitted = open_gateway.admit("POST", "/q/sessions/s/messages/$deferred", "", holder)
    body = json.dumps({"SequenceNumbers": [number]}).encode()
    pending = open_gateway.answer(Request(admitted.route, admitted.query, holder, body, BLOCKING))
    assert isinstance(pending, PendingAnswer)
    assert pending.give_back is not None
    given_back = pending.give_back(pending.future.result())
    assert given_back is not None
    given_back.result()
    (waiting,) = broker.peek("q", "s", 0, 10).result()
    # The message is not in use: its delivery is not counted.
    assert (waiting.state, waiting.delivery_count) == ("Deferred", 0)
