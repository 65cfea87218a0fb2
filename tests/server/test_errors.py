"""Every row of the protocol's table of errors, by requests made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.server import GatewayService

from .raw import ENVELOPE, KEYS, LISTEN, Gateway, Holder, Reply, SteppedClock, fresh_id, read_reply


def lost_holder(gateway: Gateway, **settings: Any) -> tuple[Holder, str]:
    """Return a holder whose lock expired, and the lock token that it had in hand."""
    queue = gateway.queue(**settings)
    gateway.send(queue, "s", "one", "two")
    holder = gateway.holder(queue, "s", fresh_id())
    token = holder.receive().token
    gateway.clock.forward(61)
    return holder, token


# 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/{queue}/sessions?timeout=0", b"{"),
        ("POST", "/{queue}/sessions?timeout=0", b"[]"),
        ("POST", "/{queue}/sessions?timeout=0", b"\xff"),
        ("POST", "/{queue}/sessions?timeout=0", b'{"SessionId": 5}'),
        ("POST", "/{queue}/sessions?timeout=0", b'{"SessionId": ""}'),
        ("POST", "/{queue}/sessions?timeout=0", b'{"SessionId": "a\\u0000"}'),
        ("POST", "/{queue}/sessions?timeout=0", b'{"SessionId": "\\ud800"}'),
        ("POST", "/{queue}/sessions?timeout=0", b'{"a":' * 50_000),
        ("POST", "/{queue}/sessions?timeout=0", b"[" * 200_000),
        ("POST", "/{queue}/sessions/s/messages/$settle", b"{}"),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"complete": "x"}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"complete": [5]}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"complete": []}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"forget": ["x"]}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"deadletter": ["x"]}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"deadletter": [{}]}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b"{}"),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": []}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": ["1"]}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": [true]}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": [-1]}'),
        ("POST", "/{queue}/sessions/s/messages/x/$deadletter", b'{"DeadLetterReason": 5}'),
        ("POST", "/{queue}/sessions/s/$deadletter", b'{"DeadLetterReason": ["x"]}'),
        ("POST", "/{queue}/messages", b"no session id"),
        ("PUT", "/a-new-one", b'{"LockDuration": "30"}'),
        ("PUT", "/a-new-one", b'{"LockDuration": "PT0S"}'),
        ("PUT", "/a-new-one", b'{"LockDuration": "PT1H"}'),
        ("PUT", "/a-new-one", b'{"MaxDeliveryCount": 0}'),
        ("PUT", "/a-new-one", b'{"MaxDeliveryCount": true}'),
        ("PUT", "/a-new-one", b'{"Colour": "red"}'),
        ("PUT", "/a-new-one", b'{"RequiresSession": false}'),
    ],
)
def test_a_bad_body_is_refused(gateway: Gateway, queue: str, method: str, path: str, body: bytes) -> None:
    reply = gateway.ask(method, path.format(queue=queue), body)
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "envelope",
    [
        b"{}",
        b"[]",
        b"[5]",
        b'[{"Body": 5}]',
        b'[{"Body": "x", "BrokerProperties": []}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": 5}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": ""}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "."}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "a\\nb"}}]',
        b'[{"Body": "\\ud800", "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "%%%", "BodyEncoding": "base64", "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "ContentType": 5, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": [1], "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": [1]}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": null}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": NaN}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": 1e999}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": 9223372036854775808}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": "long"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": -1}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": NaN}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": -1e999}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "ScheduledEnqueueTimeUtc": "tomorrow"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "ScheduledEnqueueTimeUtc": 5}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "MessageId": "' + b"m" * 129 + b'"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "' + b"s" * 129 + b'"}}]',
    ],
)
def test_a_bad_envelope_is_refused(gateway: Gateway, queue: str, envelope: bytes) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", envelope, {"Content-Type": ENVELOPE})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "properties", ["{", "[]", "5", '{"SessionId": null}', '{"SessionId": "a", "TimeToLive": 0}', "[" * 30000]
)
def test_bad_broker_properties_are_refused(gateway: Gateway, queue: str, properties: str) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", b"x", {"BrokerProperties": properties})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "query",
    [
        "timeout=soon",
        "timeout=-1",
        "timeout=NaN",
        "timeout=inf",
        "timeout=1e3",
        "timeout=",
        "timeout=86401",
        "timeout=99999999999999999999",
        "timeout=0&timeout=0",
        "timeout=0&max=0",
        "timeout=0&max=1001",
        "timeout=0&max=-1",
        "timeout=0&max=many",
        "timeout=0&max=",
        "timeout=%FF",
        "timeout=%d9%a3",
        "&".join(f"a{number}=1" for number in range(100)),
    ],
)
def test_a_bad_query_is_refused(gateway: Gateway, queue: str, query: str) -> None:
    reply = gateway.holder(queue, "s").receive(query)
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("query", ["from=x", "from=-1", f"from={2**63}", "max=0", "max=1001"])
def test_a_bad_range_is_refused(gateway: Gateway, queue: str, query: str) -> None:
    for path in (f"/{queue}/sessions/s/messages", f"/{queue}/$deadletterqueue/messages"):
        reply = gateway.ask("GET", f"{path}?{query}")
        assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("name", ["Azsession-Lock-Id", "Azsession-Request-Id"])
@pytest.mark.parametrize("value", ["a b", "x" * 65, "é", 'a"b', "a,b"])
def test_a_bad_id_in_a_header_is_refused(gateway: Gateway, queue: str, name: str, value: str) -> None:
    reply = gateway.holder(queue, "s").receive(headers={name: value})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "path",
    [
        "/{queue}/sessions/%2E%2E/messages/head?timeout=0",
        "/{queue}/sessions/%2E/messages/head?timeout=0",
        "/{queue}/sessions/%00/messages/head?timeout=0",
        "/{queue}/sessions/a%0Db/messages/head?timeout=0",
        "/{queue}/sessions/%FF/messages/head?timeout=0",
        "/{queue}/sessions/%ED%A0%80/messages/head?timeout=0",
        "/{queue}/sessions//messages/head?timeout=0",
        "/{queue}/sessions/" + "x" * 129 + "/messages/head?timeout=0",
        "/" + "q" * 261,
        "/..",
        "/a%20b",
        "/a%2Fb",
        "/{queue}/$deadletterqueue/messages/minus-one",
    ],
)
def test_a_bad_name_or_id_in_a_path_is_refused(gateway: Gateway, queue: str, path: str) -> None:
    reply = gateway.ask("DELETE", path.format(queue=queue))
    assert (reply.status, reply.code) == (400, "InvalidRequest")


def test_an_error_holds_no_token_and_no_key(gateway: Gateway, queue: str) -> None:
    for reply in (gateway.ask("GET", f"/{queue}/sessions?max=0"), gateway.ask("PUT", "/x/y/z"), gateway.ask("PATCH", "/")):
        assert reply.status >= 400
        assert b"sig=" not in reply.body
        assert b"Traceback" not in reply.body


# 401 and 403 are proven in test_rights


def test_the_unauthorized_are_told_which_scheme(gateway: Gateway, queue: str) -> None:
    reply = gateway.ask("GET", f"/{queue}/sessions", token="")
    assert (reply.status, reply.code) == (401, "Unauthorized")
    assert reply.headers["WWW-Authenticate"]


def test_a_key_without_the_right_is_forbidden(gateway: Gateway, queue: str) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", b"x", key=LISTEN)
    assert (reply.status, reply.code) == (403, "Forbidden")


# 404

SESSION_REQUESTS: list[tuple[str, str, Any]] = [
    ("DELETE", "/messages/head?timeout=0", None),
    ("DELETE", "/messages/x", None),
    ("PUT", "/messages/x", None),
    ("POST", "/messages/x/$deadletter", {"DeadLetterReason": "r"}),
    ("POST", "/messages/x/$defer", None),
    ("POST", "/messages/$settle", {"complete": ["x"]}),
    ("POST", "/messages/$deferred", {"SequenceNumbers": [1]}),
    ("POST", "/$deadletter", {"DeadLetterReason": "r"}),
    ("POST", "/renewlock", None),
    ("POST", "/release", None),
    ("GET", "/state", None),
    ("PUT", "/state", b"x"),
    ("DELETE", "/state", None),
    ("GET", "/messages", None),
]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        *((method, f"/sessions/s{path}", body) for method, path, body in SESSION_REQUESTS),
        ("POST", "/sessions?timeout=0", {}),
        ("GET", "/sessions", None),
        ("POST", "/messages", [{"Body": "x", "BrokerProperties": {"SessionId": "s"}}]),
        ("GET", "/$deadletterqueue/messages", None),
        ("POST", "/$deadletterqueue/messages/1/resubmit", None),
        ("DELETE", "/$deadletterqueue/messages/1", None),
        ("GET", "", None),
        ("DELETE", "", None),
    ],
)
def test_a_queue_that_is_not_there_is_not_found(gateway: Gateway, method: str, path: str, body: Any) -> None:
    reply = gateway.ask(method, f"/nowhere{path}", body, {"Content-Type": ENVELOPE})
    assert (reply.status, reply.code) == (404, "EntityNotFound")


@pytest.mark.parametrize(("method", "path"), [("POST", "/7/resubmit"), ("DELETE", "/7")])
def test_a_dead_letter_that_is_not_there_is_not_found(gateway: Gateway, queue: str, method: str, path: str) -> None:
    reply = gateway.ask(method, f"/{queue}/$deadletterqueue/messages{path}")
    assert (reply.status, reply.code) == (404, "MessageNotFound")


def test_a_deferred_message_that_is_not_there_is_not_found_and_none_is_received(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one")
    holder = gateway.holder(queue, "s", fresh_id())
    holder.defer(holder.receive().token)
    reply = holder.ask("POST", "/messages/$deferred", {"SequenceNumbers": [1, 2]})
    assert (reply.status, reply.code) == (404, "MessageNotFound")
    assert holder.ask("POST", "/messages/$deferred", {"SequenceNumbers": [1]}).status == 201


@pytest.mark.parametrize(
    "path", ["/{queue}/else", "/{queue}/sessions/s/else", "/{queue}/$deadletterqueue", "/{queue}/messages/x/y"]
)
def test_a_path_of_another_protocol_is_not_found(gateway: Gateway, queue: str, path: str) -> None:
    reply = gateway.ask("GET", path.format(queue=queue))
    assert (reply.status, reply.code) == (404, "InvalidRequest")


# 405


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/{queue}", "DELETE, GET, PUT"),
        ("POST", "/", "GET"),
        ("DELETE", "/{queue}/messages", "POST"),
        ("GET", "/{queue}/sessions/s/renewlock", "POST"),
        ("GET", "/{queue}/sessions/s/release", "POST"),
        ("POST", "/{queue}/sessions/s/state", "DELETE, GET, PUT"),
        ("DELETE", "/{queue}/sessions", "GET, POST"),
        ("PUT", "/{queue}/$deadletterqueue/messages", "GET"),
        ("OPTIONS", "/{queue}", "DELETE, GET, PUT"),
    ],
)
def test_another_method_is_not_supported(gateway: Gateway, queue: str, method: str, path: str, allowed: str) -> None:
    reply = gateway.ask(method, path.format(queue=queue))
    assert (reply.status, reply.code) == (405, "NotSupported")
    assert reply.headers["Allow"] == allowed


# 409


def test_a_message_that_was_settled_in_another_way_is_a_conflict(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one")
    holder = gateway.holder(queue, "s", fresh_id())
    token = holder.receive().token
    holder.complete(token)
    for reply in (holder.abandon(token), holder.dead_letter(token), holder.defer(token)):
        assert (reply.status, reply.code) == (409, "Conflict")


def test_a_queue_that_is_there_with_other_settings_is_a_conflict(gateway: Gateway) -> None:
    queue = gateway.queue(lock_duration=30)
    reply = gateway.ask("PUT", f"/{queue}", {"LockDuration": "PT31S"})
    assert (reply.status, reply.code) == (409, "Conflict")


# 410

Request = Callable[[Holder, str], Reply]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [request for request in SESSION_REQUESTS if "/x" not in request[1] and request[1] not in ("/messages", "/release")],
)
def test_a_holder_whose_lock_expired_has_lost_it(gateway: Gateway, method: str, path: str, body: Any) -> None:
    holder, token = lost_holder(gateway)
    if path == "/messages/$settle":
        reply = holder.ask(method, path, {"complete": [token]})
        assert reply.json == {"failed": [{"LockToken": token, "code": "SessionLockLost"}]}
        return
    reply = holder.ask(method, path, body)
    assert (reply.status, reply.code) == (410, "SessionLockLost")


@pytest.mark.parametrize("settle", ["complete", "abandon", "defer", "dead_letter"])
def test_what_a_lost_lock_held_cannot_be_settled(gateway: Gateway, settle: str) -> None:
    holder, token = lost_holder(gateway)
    reply = getattr(holder, settle)(token)
    assert (reply.status, reply.code) == (410, "SessionLockLost")


@pytest.mark.parametrize("settle", ["complete", "abandon", "defer", "dead_letter"])
@pytest.mark.parametrize("lock_id", [None, "one"])
def test_an_unknown_token_cannot_be_settled(gateway: Gateway, queue: str, settle: str, lock_id: str | None) -> None:
    holder = gateway.holder(queue, "s", lock_id)
    holder.receive()
    for token in (fresh_id(), "no-guid", "%24x", "x" * 300):
        reply = getattr(holder, settle)(token)
        assert (reply.status, reply.code) == (410, "MessageLockLost")


def test_an_old_token_is_lost_though_the_session_has_a_holder_again(gateway: Gateway) -> None:
    holder, token = lost_holder(gateway)
    other = gateway.holder(holder.queue, "s", fresh_id())
    assert other.receive().body == b"one"
    reply = holder.complete(token)
    assert (reply.status, reply.code) == (410, "MessageLockLost")
    assert holder.renew().code == "SessionLockLost"


def test_a_lost_lock_id_is_not_let_in_again_by_accept(gateway: Gateway) -> None:
    holder, _ = lost_holder(gateway)
    reply = gateway.ask("POST", f"/{holder.queue}/sessions?timeout=0", {"SessionId": "s"}, holder.headers)
    assert (reply.status, reply.code) == (410, "SessionLockLost")


def test_a_waiting_receive_ends_with_410_when_its_lock_is_released(gateway: Gateway, queue: str) -> None:
    holder = gateway.holder(queue, "s", fresh_id())
    holder.receive()
    with holder.start_receive(20) as sock:
        assert holder.release().status == 204
        answer = read_reply(sock)
    assert (answer.status, answer.code) == (410, "SessionLockLost")


def test_a_plain_renewal_of_what_is_not_held_is_lost(gateway: Gateway, queue: str) -> None:
    reply = gateway.holder(queue, "s").renew()
    assert (reply.status, reply.code) == (410, "SessionLockLost")


# 413


def test_a_message_over_the_limit_is_too_large(gateway: Gateway, queue: str) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", b"x" * (64 * 1024 + 1), {"BrokerProperties": '{"SessionId": "s"}'})
    assert (reply.status, reply.code) == (413, "MessageTooLarge")
    assert (reply.json["error"]["size"], reply.json["error"]["limit"]) == (65537, 65536)
    assert gateway.ask("POST", f"/{queue}/messages", b"x" * 65536, {"BrokerProperties": '{"SessionId": "s"}'}).status == 201


def test_a_state_over_the_limit_is_too_large(gateway: Gateway, queue: str) -> None:
    holder = gateway.holder(queue, "s", fresh_id())
    holder.receive()
    reply = holder.ask("PUT", "/state", b"x" * (64 * 1024 + 1))
    assert (reply.status, reply.code) == (413, "MessageTooLarge")


# 423


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        *(
            request
            for request in SESSION_REQUESTS
            if "/x" not in request[1] and request[1] not in ("/messages", "/release", "/messages/$settle")
        ),
        ("POST", "?timeout=0", {"SessionId": "s"}),
    ],
)
@pytest.mark.parametrize("lock_id", [None, "other"])
def test_a_session_that_another_holds_is_locked(
    gateway: Gateway, queue: str, method: str, path: str, body: Any, lock_id: str | None
) -> None:
    gateway.holder(queue, "s", "one").receive()
    other = gateway.holder(queue, "s", lock_id)
    if path.startswith("?"):
        reply = gateway.ask(method, f"/{queue}/sessions{path}", body, other.headers)
    else:
        reply = other.ask(method, path, body)
    assert (reply.status, reply.code) == (423, "SessionLocked")
    assert 0 < reply.lock_left <= 60


def test_a_plain_holder_keeps_version_1_out(gateway: Gateway, queue: str) -> None:
    gateway.holder(queue, "s").receive()
    reply = gateway.holder(queue, "s", fresh_id()).receive()
    assert (reply.status, reply.code) == (423, "SessionLocked")


# 429 is proven in test_bounds


# 500 and 503


class _BrokenBroker(EmbeddedBroker):
    def list_queues(self, **options: Any) -> Any:
        raise RuntimeError("a secret of the inside")


def test_a_failure_inside_is_answered_without_saying_what(caplog: pytest.LogCaptureFixture) -> None:
    with GatewayService(_BrokenBroker(), KEYS, max_waiting=4) as service:
        reply = Gateway(service, SteppedClock()).ask("GET", "/")
    assert (reply.status, reply.code) == (500, "InternalError")
    assert b"secret" not in reply.body
    assert "a secret of the inside" in caplog.text


def test_a_broker_that_is_closed_is_busy() -> None:
    broker = EmbeddedBroker(queues=["q"])
    with GatewayService(broker, KEYS, max_waiting=4) as service:
        broker.close()
        reply = Gateway(service, SteppedClock()).ask("GET", "/q")
    assert (reply.status, reply.code) == (503, "ServerBusy")
