"""Each error code of the protocol except InvalidRequest (see test_bad_requests), and the requests that get it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.server import GatewayService

from .raw import ENVELOPE, KEYS, LISTEN, Gateway, Holder, Reply, SteppedClock, fresh_id, read_reply


def lost_holder(gateway: Gateway, **settings: Any) -> tuple[Holder, str]:
    """Return a holder whose lock expired, and the token of a message that it received before."""
    queue = gateway.queue(**settings)
    gateway.send(queue, "s", "one", "two")
    holder = gateway.holder(queue, "s", fresh_id())
    token = holder.receive().token
    gateway.clock.forward(61)
    return holder, token


# 401 and 403; more in test_rights


def test_a_request_without_a_token_learns_the_authentication_scheme(gateway: Gateway, queue: str) -> None:
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
def test_a_missing_queue_is_not_found(gateway: Gateway, method: str, path: str, body: Any) -> None:
    reply = gateway.ask(method, f"/nowhere{path}", body, {"Content-Type": ENVELOPE})
    assert (reply.status, reply.code) == (404, "EntityNotFound")


@pytest.mark.parametrize(("method", "path"), [("POST", "/7/resubmit"), ("DELETE", "/7")])
def test_a_missing_dead_letter_is_not_found(gateway: Gateway, queue: str, method: str, path: str) -> None:
    reply = gateway.ask(method, f"/{queue}/$deadletterqueue/messages{path}")
    assert (reply.status, reply.code) == (404, "MessageNotFound")


def test_a_missing_deferred_message_is_not_found_and_none_is_received(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one")
    holder = gateway.holder(queue, "s", fresh_id())
    holder.defer(holder.receive().token)
    reply = holder.ask("POST", "/messages/$deferred", {"SequenceNumbers": [1, 2]})
    assert (reply.status, reply.code) == (404, "MessageNotFound")
    assert holder.ask("POST", "/messages/$deferred", {"SequenceNumbers": [1]}).status == 201


@pytest.mark.parametrize("path", ["/{queue}/sessions/s/else", "/{queue}/$deadletterqueue", "/{queue}/messages/x/y"])
def test_a_path_of_another_protocol_is_not_found(gateway: Gateway, queue: str, path: str) -> None:
    reply = gateway.ask("GET", path.format(queue=queue))
    assert (reply.status, reply.code) == (404, "InvalidRequest")


# 405


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/{queue}", "DELETE, GET, PUT"),
        ("POST", "/", "GET"),
        ("DELETE", "/{queue}/messages", "GET, POST"),
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


def test_settling_a_message_again_in_another_way_is_a_conflict(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one")
    holder = gateway.holder(queue, "s", fresh_id())
    token = holder.receive().token
    holder.complete(token)
    for reply in (holder.abandon(token), holder.dead_letter(token), holder.defer(token)):
        assert (reply.status, reply.code) == (409, "Conflict")


def test_creating_a_queue_that_exists_with_other_settings_is_a_conflict(gateway: Gateway) -> None:
    queue = gateway.queue(lock_duration=30)
    reply = gateway.ask("PUT", f"/{queue}", {"LockDuration": "PT31S"})
    assert (reply.status, reply.code) == (409, "Conflict")


# 410

Request = Callable[[Holder, str], Reply]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [request for request in SESSION_REQUESTS if "/x" not in request[1] and request[1] not in ("/messages", "/release")],
)
def test_a_holder_whose_lock_expired_gets_session_lock_lost(gateway: Gateway, method: str, path: str, body: Any) -> None:
    holder, token = lost_holder(gateway)
    if path == "/messages/$settle":
        reply = holder.ask(method, path, {"complete": [token]})
        assert reply.json == {"failed": [{"LockToken": token, "code": "SessionLockLost"}]}
        return
    reply = holder.ask(method, path, body)
    assert (reply.status, reply.code) == (410, "SessionLockLost")


@pytest.mark.parametrize("settle", ["complete", "abandon", "defer", "dead_letter"])
def test_a_message_of_a_lost_session_lock_cannot_be_settled(gateway: Gateway, settle: str) -> None:
    holder, token = lost_holder(gateway)
    reply = getattr(holder, settle)(token)
    assert (reply.status, reply.code) == (410, "SessionLockLost")


@pytest.mark.parametrize("settle", ["complete", "abandon", "defer", "dead_letter"])
@pytest.mark.parametrize("lock_id", [None, "one"])
def test_an_unknown_lock_token_cannot_be_settled(gateway: Gateway, queue: str, settle: str, lock_id: str | None) -> None:
    holder = gateway.holder(queue, "s", lock_id)
    holder.receive()
    for token in (fresh_id(), "no-guid", "%24x", "x" * 300):
        reply = getattr(holder, settle)(token)
        assert (reply.status, reply.code) == (410, "MessageLockLost")


def test_an_old_lock_token_is_lost_after_the_session_got_another_holder(gateway: Gateway) -> None:
    holder, token = lost_holder(gateway)
    other = gateway.holder(holder.queue, "s", fresh_id())
    assert other.receive().body == b"one"
    reply = holder.complete(token)
    assert (reply.status, reply.code) == (410, "MessageLockLost")
    assert holder.renew().code == "SessionLockLost"


def test_accept_does_not_give_the_session_to_a_lock_id_that_lost_it(gateway: Gateway) -> None:
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


def test_a_plain_renewal_without_a_lock_reports_a_lost_lock(gateway: Gateway, queue: str) -> None:
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
def test_a_session_with_another_holder_is_locked(
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


def test_a_plain_holder_keeps_out_a_holder_with_a_lock_id(gateway: Gateway, queue: str) -> None:
    gateway.holder(queue, "s").receive()
    reply = gateway.holder(queue, "s", fresh_id()).receive()
    assert (reply.status, reply.code) == (423, "SessionLocked")


# 429 is in test_bounds


# 500 and 503


class _BrokenBroker(EmbeddedBroker):
    def list_queues(self, **options: Any) -> Any:
        raise RuntimeError("a secret of the inside")


def test_an_internal_error_does_not_show_its_text_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    with GatewayService(_BrokenBroker(), KEYS, max_waiting=4) as service:
        reply = Gateway(service, SteppedClock()).ask("GET", "/")
    assert (reply.status, reply.code) == (500, "InternalError")
    assert b"secret" not in reply.body
    assert "a secret of the inside" in caplog.text


def test_a_closed_broker_is_reported_as_busy() -> None:
    broker = EmbeddedBroker(queues=["q"])
    with GatewayService(broker, KEYS, max_waiting=4) as service:
        broker.close()
        reply = Gateway(service, SteppedClock()).ask("GET", "/q")
    assert (reply.status, reply.code) == (503, "ServerBusy")
