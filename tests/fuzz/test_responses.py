"""For any response of a server, a call of the client returns a result or raises a `QueueError`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from azsession import ConnectionFailedError, ProviderError, QueueError, ServiceBusConfig, ServiceBusProvider, SessionClient
from azsession.protocol.wire import MalformedError

from . import wire
from .targets import TARGETS

URL = "http://127.0.0.1:9"
CONNECTION_STRING = f"Endpoint={URL}/;SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0"
ENVELOPE = "application/vnd.microsoft.servicebus.json"
LOCK = {"Azsession-Lock-Expires-In": "60", "Azsession-Waited": "0"}

MESSAGE = {
    "Body": "x",
    "BodyEncoding": "utf-8",
    "ContentType": "text/plain",
    "UserProperties": {"a": 1},
    "BrokerProperties": {
        "LockToken": "t", "SessionId": "s", "MessageId": "m", "SequenceNumber": 1, "DeliveryCount": 1, "TimeToLive": 5,
        "EnqueuedTimeUtc": "Mon, 02 Jan 2023 03:04:05 GMT", "ScheduledEnqueueTimeUtc": "2023-01-02T03:04:05Z",
        "Label": "l", "CorrelationId": "c", "To": "t", "ReplyTo": "r", "ReplyToSessionId": "r", "State": "Active",
        "DeadLetterReason": "d", "DeadLetterErrorDescription": "d",
    },
}  # fmt: skip
QUEUE = {
    "QueueName": "q", "LockDuration": "PT30S", "MaxDeliveryCount": 3, "DefaultMessageTimeToLive": "P1D",
    "DeadLetteringOnMessageExpiration": True, "RequiresDuplicateDetection": False, "RequiresSession": True,
    "DuplicateDetectionHistoryTimeWindow": "PT10M", "MessageCount": 1, "DeadLetterMessageCount": 0,
}  # fmt: skip
SESSION = {"SessionId": "s", "MessageCount": 1, "LockedUntilUtc": "Mon, 02 Jan 2023 03:04:05 GMT"}

#: A valid response to each operation: body and headers.
GOOD: dict[str, tuple[Any, dict[str, str]]] = {
    "receive many": ([MESSAGE], {**LOCK, "Azsession-Count": "1"}),
    "accept": ({"SessionId": "s"}, LOCK),
    "renew": ({}, LOCK),
    "settle": ({"failed": [{"LockToken": "t", "code": "Conflict"}]}, {}),
    "receive deferred": ([MESSAGE], {"Azsession-Count": "1"}),
    "dead-letter session": ({"count": 1}, {}),
    "peek": ([MESSAGE], {}),
    "dead letters": ([MESSAGE], {}),
    "list sessions": ({"sessions": [SESSION]}, {}),
    "queue": (QUEUE, {}),
    "queues": ({"queues": [QUEUE]}, {}),
}
OPERATIONS = pytest.mark.parametrize("name", list(GOOD))

#: Any JSON values, some of them hard to handle.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=20)
    | st.sampled_from(["", ".", "..", "\ud800", "a\r\nb", "x" * 5000, 2**64, -1, 1e308, "NaN"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each part of a JSON value."""
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """Return `value` with another part behind these keys."""
    if not at:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return changed


def read(name: str, body: bytes, headers: dict[str, str] | None = None) -> bool:
    """Parse a response and use the result. Return whether it could be parsed."""
    try:
        wire.read_answer(name, 200, list((GOOD[name][1] if headers is None else headers).items()), body)
    except MalformedError:
        return False
    return True


def test_every_json_parser_has_a_valid_response_here() -> None:
    # The other two parse raw bytes.
    assert set(wire.READERS) - {"receive", "state"} == set(GOOD)


@OPERATIONS
def test_a_valid_response_is_accepted(name: str) -> None:
    assert read(name, json.dumps(GOOD[name][0]).encode())


@OPERATIONS
@given(st.data())
def test_a_wrong_value_in_a_response_is_accepted_or_malformed(name: str, data: st.DataObject) -> None:
    good = GOOD[name][0]
    changed = put(good, data.draw(st.sampled_from(list(places(good)))), data.draw(VALUES))
    read(name, json.dumps(changed).encode())


@OPERATIONS
def test_every_part_of_a_response_can_have_any_type(name: str) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    kinds = [None, True, 0, -1, 2**70, 1.5, float("inf"), float("nan"), "", "\ud800", "..", "a\nb", "x" * 9999, [], {}, [{}]]
    for at in places(GOOD[name][0]):
        for kind in [*kinds, deep]:
            read(name, json.dumps(put(GOOD[name][0], at, kind)).encode())


@OPERATIONS
def test_a_truncated_response_is_malformed(name: str) -> None:
    whole = json.dumps(GOOD[name][0]).encode()
    # The response to a renewal has no body that is read.
    assert not any(read(name, whole[:end]) for end in range(len(whole))) or name == "renew"


@OPERATIONS
@given(st.sampled_from(sorted(LOCK)), st.text(st.characters(max_codepoint=255), max_size=20))
def test_a_malformed_header_of_a_response_is_ignored(name: str, header: str, value: str) -> None:
    body, headers = GOOD[name]
    assert read(name, json.dumps(body).encode(), {**headers, header: value})


class Server(BaseAdapter):
    """Gives the same response to the first ten requests, in this process, and 204 to all later ones."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self._answer = (status, body, headers)
        self.paths: list[str] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response._content = self._answer[:2] if len(self.paths) < 10 else (204, b"")
        response.headers = CaseInsensitiveDict({"Azsession-Protocol": "1", **self._answer[2]})
        response.request = request
        self.paths.append(request.path_url)
        return response

    def close(self) -> None:
        pass


@contextmanager
def answered(status: int, value: Any, headers: dict[str, str]) -> Iterator[tuple[ServiceBusProvider, Server]]:
    """Yield a provider whose server responds with this to all requests, and the server."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    server = Server(status, body, headers)
    http = requests.Session()
    http.mount("http://", server)
    config = ServiceBusConfig(connection_string=CONNECTION_STRING, retry_attempts=0)
    provider = ServiceBusProvider(config, http=http)
    try:
        yield provider, server
    finally:
        provider.close()


def in_session(use: Callable[[SessionClient], object]) -> Callable[[ServiceBusProvider], object]:
    def run(provider: ServiceBusProvider) -> object:
        with provider.create_session_client("q", "s", auto_renew=False) as session:
            return use(session)

    return run


def take_and_settle(session: SessionClient) -> None:
    for message in session.receive_messages(5, timeout=0):
        str(message.receipt)
        session.complete_message(message)


#: The calls of a program that parse a response.
CALLS: dict[str, Callable[[ServiceBusProvider], object]] = {
    "receive and complete": in_session(take_and_settle),
    "receive one": in_session(lambda session: session.receive_message(timeout=0)),
    "next session": lambda provider: provider.create_session_client("q", auto_renew=False, accept_timeout=0).close(),
    "renew": in_session(lambda session: session.renew_session_lock()),
    "deferred": in_session(lambda session: session.receive_deferred_messages([1])),
    "dead-letter all": in_session(lambda session: session.dead_letter_session("why")),
    "get state": in_session(lambda session: session.get_session_state()),
    "set state": in_session(lambda session: session.set_session_state(b"x")),
    "peek": lambda provider: provider.peek_messages("q", "s"),
    "dead letters": lambda provider: provider.dead_letters("q"),
    "list sessions": lambda provider: provider.list_sessions("q"),
    "get queue": lambda provider: provider.get_queue("q"),
    "list queues": lambda provider: provider.list_queues(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
@settings(max_examples=20)
@given(st.data())
def test_a_call_raises_nothing_but_queue_errors(call: Callable[[ServiceBusProvider], object], data: st.DataObject) -> None:
    value, headers = data.draw(st.sampled_from(list(GOOD.values())))
    changed = put(value, data.draw(st.sampled_from(list(places(value)))), data.draw(VALUES))
    status = data.draw(st.sampled_from([200, 201, 204, 300, 400, 404, 409, 410, 413, 423, 429, 500]))
    with answered(status, changed, headers) as (provider, _), suppress(QueueError):
        call(provider)


# Cases that random search found


@pytest.mark.parametrize("name", ["", "..", ".", "\ud800", "a\nb", "x" * 129, 5, None])
def test_a_session_id_that_cannot_be_in_a_path_is_malformed(name: Any) -> None:
    with answered(201, {"SessionId": name}, LOCK) as (provider, _), pytest.raises(ConnectionFailedError, match="malformed"):
        provider.create_session_client("q", auto_renew=False)


@pytest.mark.parametrize("token", ["", "\ud800", "x" * 257, 5, None])
def test_an_invalid_lock_token_is_malformed(token: Any) -> None:
    message = put(MESSAGE, ("BrokerProperties", "LockToken"), token)
    with (
        answered(201, [message], GOOD["receive many"][1]) as (provider, _),
        pytest.raises(ConnectionFailedError, match="malformed"),
    ):
        in_session(take_and_settle)(provider)


def test_invalid_attributes_of_a_message_are_dropped() -> None:
    message = put(MESSAGE, ("UserProperties",), {"a": 1, "b": [1], "c": {"d": 1}, "e": None, "f": "x", "g": True})
    with answered(200, [message], GOOD["receive many"][1]) as (provider, _):
        assert provider.peek_messages("q", "s")[0].attributes == {"a": 1, "f": "x", "g": True}
        received = in_session(lambda session: session.receive_messages(1, timeout=0))(provider)
        assert received[0].attributes == {"a": 1, "f": "x", "g": True}  # type: ignore[index]


def test_a_server_that_repeats_a_page_of_sessions_is_asked_twice() -> None:
    page = {"sessions": [{"SessionId": f"s{number}", "MessageCount": 1} for number in range(1000)]}
    with answered(200, page, {}) as (provider, server):
        with pytest.raises(ProviderError, match="again and again"):
            provider.list_sessions("q")
        assert [path for path in server.paths if "sessions" in path] == [
            "/q/sessions?max=1000",
            "/q/sessions?max=1000&after=s999",
        ]


@pytest.mark.parametrize("count", [-1, "1", None, 1.5])
def test_an_invalid_count_is_malformed(count: Any) -> None:
    assert not read("dead-letter session", json.dumps({"count": count}).encode())


def test_responses_are_a_target_of_the_fuzzer() -> None:
    assert "answer" in TARGETS
