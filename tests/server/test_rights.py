"""Rights of keys, and valid and invalid tokens. The official SDK's generator makes the tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any
from urllib.parse import quote_plus

import pytest
import requests

from azsession.server import AccessKey, Right

from .raw import ENVELOPE, KEYS, LISTEN, MANAGE, SEND, Gateway, fresh_id, serving

SENDING = [("POST", "/{queue}/messages", [{"Body": "x", "BrokerProperties": {"SessionId": "s"}}])]
LISTENING: list[tuple[str, str, Any]] = [
    ("DELETE", "/{queue}/sessions/s/messages/head?timeout=0", None),
    ("DELETE", "/{queue}/sessions/s/messages/x", None),
    ("PUT", "/{queue}/sessions/s/messages/x", None),
    ("POST", "/{queue}/sessions/s/messages/x/$deadletter", {}),
    ("POST", "/{queue}/sessions/s/messages/x/$defer", None),
    ("POST", "/{queue}/sessions/s/messages/$settle", {"complete": ["x"]}),
    ("POST", "/{queue}/sessions/s/messages/$deferred", {"SequenceNumbers": [1]}),
    ("POST", "/{queue}/sessions/s/$deadletter", {}),
    ("POST", "/{queue}/sessions/s/renewlock", None),
    ("POST", "/{queue}/sessions/s/release", None),
    ("GET", "/{queue}/sessions/s/state", None),
    ("PUT", "/{queue}/sessions/s/state", b"x"),
    ("DELETE", "/{queue}/sessions/s/state", None),
    ("GET", "/{queue}/sessions/s/messages", None),
    ("POST", "/{queue}/sessions?timeout=0", {}),
    ("GET", "/{queue}/sessions", None),
    ("GET", "/{queue}/$statistics", None),
    ("GET", "/{queue}/messages", None),
    ("GET", "/{queue}/$deadletterqueue/messages", None),
    ("POST", "/{queue}/$deadletterqueue/messages/1/resubmit", None),
    ("DELETE", "/{queue}/$deadletterqueue/messages/1", None),
]
MANAGING: list[tuple[str, str, Any]] = [
    ("PUT", "/{queue}-new", {}),
    ("GET", "/{queue}", None),
    ("DELETE", "/{queue}", None),
    ("GET", "/", None),
    ("GET", "/$backup", None),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "right"),
    [
        *((*request, Right.SEND) for request in SENDING),
        *((*request, Right.LISTEN) for request in LISTENING),
        *((*request, Right.MANAGE) for request in MANAGING),
    ],
)
def test_an_operation_requires_its_right(
    gateway: Gateway, queue: str, method: str, path: str, body: Any, right: Right
) -> None:
    path = path.format(queue=queue)
    for key in (SEND, LISTEN, MANAGE):
        reply = gateway.ask(method, path, body, {"Content-Type": ENVELOPE}, key=key)
        if right in key.rights or key is MANAGE:
            assert reply.status not in (401, 403)
        else:
            assert (reply.status, reply.code) == (403, "Forbidden")
            assert right.value in reply.json["error"]["message"]
            assert key.key.encode() not in reply.body


def test_a_missing_right_does_not_reveal_whether_a_queue_exists(gateway: Gateway, queue: str) -> None:
    there = gateway.ask("GET", f"/{queue}", key=SEND)
    nowhere = gateway.ask("GET", "/nowhere", key=SEND)
    assert (there.status, there.body) == (nowhere.status, nowhere.body) == (403, there.body)


def test_a_key_can_have_several_rights() -> None:
    both = AccessKey.parse("both:c2VjcmV0:Send,Listen")
    assert both.allows(Right.SEND)
    assert both.allows(Right.LISTEN)
    assert not both.allows(Right.MANAGE)


# Valid tokens


@pytest.mark.parametrize("path", ["", "{queue}", "{queue}/", "{queue}/sessions", "{queue}/sessions/a%2Fb"])
def test_a_token_is_valid_for_everything_below_its_path(gateway: Gateway, queue: str, path: str) -> None:
    token = gateway.token(path.format(queue=queue))
    assert gateway.holder(queue, "a/b").receive(token=token).status == 204


def test_the_url_scheme_of_a_token_does_not_matter(gateway: Gateway, queue: str) -> None:
    for scheme in ("sb", "amqps", "https"):
        token = gateway.token(queue, base=f"{scheme}://{gateway.host}:{gateway.port}")
        assert gateway.holder(queue, "s").receive(token=token).status == 204


def test_a_token_for_a_host_without_a_port_is_valid(gateway: Gateway, queue: str) -> None:
    token = gateway.token(queue, base=f"sb://{gateway.host.upper()}")
    assert gateway.holder(queue, "s").receive(token=token).status == 204


def test_a_token_for_a_configured_host_name_is_valid() -> None:
    with serving(hosts=["Myns.servicebus.windows.net"], max_waiting=2) as gateway:
        queue = gateway.queue()
        token = gateway.token(queue, base="sb://myns.servicebus.windows.net")
        assert gateway.holder(queue, "s").receive(token=token).status == 204
        other = gateway.token(queue, base="sb://other.servicebus.windows.net")
        assert gateway.holder(queue, "s").receive(token=other).status == 401


def test_a_token_for_the_host_in_the_request_is_valid(gateway: Gateway, queue: str) -> None:
    token = gateway.token(queue, base="sb://gateway.example")
    for host, status in (("gateway.example", 204), ("GATEWAY.example:8080", 204), ("other.example", 401)):
        reply = gateway.holder(queue, "s").receive(headers={"Host": host}, token=token)
        assert reply.status == status


def test_a_token_with_another_field_order_and_encoding_is_valid(gateway: Gateway, queue: str) -> None:
    resource, expiry = quote_plus(f"{gateway.url}/{queue}").lower(), str(int(time.time()) + 60)
    signature = hmac.new(MANAGE.key.encode(), f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
    sig = quote_plus(base64.b64encode(signature))
    token = f"SharedAccessSignature skn={MANAGE.name}&se={expiry}&sig={sig}&sr={resource}"
    assert gateway.holder(queue, "s").receive(token=token).status == 204


# Invalid tokens


def bad_tokens(gateway: Gateway, queue: str) -> dict[str, str]:
    good = gateway.token(queue)
    fields = dict(field.split("=", 1) for field in good.removeprefix("SharedAccessSignature ").split("&"))

    def made(**changes: str | None) -> str:
        changed = {**fields, **changes}
        return "SharedAccessSignature " + "&".join(f"{name}={value}" for name, value in changed.items() if value is not None)

    tokens = {
        "none": "",
        "expired": gateway.token(queue, expiry=time.time() - 1),
        "for a sibling": gateway.token(queue + "2"),
        "for a beginning of the name": gateway.token(queue[:-1]),
        "for another session": gateway.token(f"{queue}/sessions/other"),
        "for something deeper": gateway.token(f"{queue}/sessions/s/messages"),
        "for another host": gateway.token(queue, base="sb://elsewhere.example"),
        "for a host that begins alike": gateway.token(queue, base=f"sb://{gateway.host}.example"),
        "for a host in the user part": gateway.token(queue, base=f"sb://{gateway.host}@elsewhere.example"),
        "for a way around": gateway.token(f"other/../{queue}"),
        "for no host": gateway.token(queue, base="sb://"),
        "for a broken host": gateway.token(queue, base="sb://[::1"),
        "of an unknown key": gateway.token(queue, key=AccessKey("nobody", MANAGE.key)),
        "of an empty name": gateway.token(queue, key=AccessKey(" ", MANAGE.key)),
        "of a wrong secret": gateway.token(queue, key=AccessKey(MANAGE.name, "d3Jvbmc=")),
        "of the right secret under another name": gateway.token(queue, key=AccessKey(SEND.name, MANAGE.key)),
        "another scheme": "Bearer " + good.split(" ", 1)[1],
        "lower case scheme": good[0].lower() + good[1:],
        "no fields": "SharedAccessSignature ",
        "rubbish": "SharedAccessSignature &&&===%%%",
        "bytes": "SharedAccessSignature sr=\xff&sig=\xff&se=\xff&skn=\xff",
        "damaged signature": made(sig="AAAA" + fields["sig"][4:]),
        "short signature": made(sig=fields["sig"][:8]),
        "empty signature": made(sig=""),
        "no base64": made(sig="%2A%2A"),
        "other expiry": made(se=str(int(fields["se"]) + 1)),
        "negative expiry": made(se="-1"),
        "expiry of other digits": made(se="٣".encode().decode("latin-1") * 10),
        "expiry without end": made(se="9" * 30),
        "expiry with decimals": made(se=fields["se"] + ".5"),
        "other resource": made(sr=quote_plus(f"{gateway.url}/")),
        "a fifth field": good + "&x=y",
        "too long": good + "&x=" + "y" * 8000,
        "blank before": good.replace(" ", "  ", 1),
    }
    for name in fields:
        tokens[f"no {name}"] = made(**{name: None})
        tokens[f"two {name}"] = good + f"&{name}={fields[name]}"
        tokens[f"{name} instead of another"] = good.replace("skn=" if name != "skn" else "se=", f"{name}=")
    return tokens


def test_the_answer_to_a_wrong_token_does_not_depend_on_whether_the_queue_exists(gateway: Gateway, queue: str) -> None:
    refusals = set()
    for name, token in bad_tokens(gateway, queue).items():
        for path in (f"/{queue}/sessions/s/state", f"/{queue}-nowhere/sessions/s/state"):
            reply = gateway.ask("GET", path, token=token)
            assert (reply.status, reply.code) == (401, "Unauthorized"), name
            refusals.add((reply.body, str([pair for pair in reply.headers.items() if pair[0].lower() != "date"])))
    assert len(refusals) == 1


def test_a_request_without_a_valid_token_creates_no_queue(gateway: Gateway) -> None:
    gateway.ask("POST", "/made-by-nobody/messages", b"x", {"BrokerProperties": '{"SessionId": "s"}'}, token="")
    assert gateway.ask("GET", "/made-by-nobody").status == 404


def test_the_connection_works_after_a_refused_request_with_a_body(gateway: Gateway, queue: str) -> None:
    connection = gateway.connect()
    try:
        for _ in range(2):
            refused = gateway.ask("POST", f"/{queue}/messages", b"GET / HTTP/1.1\r\n" * 2000, token="", connection=connection)
            assert refused.status == 401
            assert gateway.ask("GET", "/healthz", connection=connection).status == 200
    finally:
        connection.close()


def test_a_request_from_the_requests_library_is_served(gateway: Gateway, queue: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": gateway.token(queue), "Azsession-Lock-Id": fresh_id()}
        sent = session.post(
            f"{gateway.url}/{queue}/messages", data=b"x", headers={**headers, "BrokerProperties": '{"SessionId": "a/b"}'}
        )
        assert sent.status_code == 201
        received = session.delete(f"{gateway.url}/{queue}/sessions/a%2Fb/messages/head?timeout=0", headers=headers)
        assert (received.status_code, received.content) == (201, b"x")
        assert session.get(f"{gateway.url}/{queue}", headers={"Authorization": "SharedAccessSignature x"}).status_code == 401


def test_every_key_has_its_own_secret() -> None:
    assert len({key.key for key in (*KEYS, AccessKey.generate(), AccessKey.generate())}) == 5
