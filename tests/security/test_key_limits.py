"""Keys that are limited to queues can neither use nor see other queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from azsession.protocol.routes import Operation
from azsession.server import AccessKey, Right
from azsession.server.authorization import OPEN

from ..server.described import described
from ..server.raw import ENVELOPE, KEYS, Gateway, serving
from ..server.test_rights import LISTENING, MANAGING, SENDING

OWN = frozenset({"own", "own-new", "shop/own", "topic"})
LIMITED = {
    right: AccessKey(f"own-{right.value}", f"{right.value}", frozenset({right}), queues=OWN) for right in list(Right)[:3]
}


@pytest.fixture(scope="module")
def limited() -> Iterator[Gateway]:
    with serving() as gateway:
        gateway.service.replace_keys([*KEYS, *LIMITED.values()])
        for name in ("own", "shop/own", "topic/subscriptions/s", "other", "owner", "shop", "shop/own2"):
            assert gateway.ask("PUT", f"/{name}", {}).status == 201
        yield gateway


REQUESTS: list[tuple[str, str, Any, Right]] = [
    *((*request, Right.SEND) for request in SENDING),
    *((*request, Right.LISTEN) for request in LISTENING),
    *((*request, Right.MANAGE) for request in MANAGING if request[0] != "DELETE" and request[1] not in ("/", "/$backup")),
]


@pytest.mark.parametrize(("method", "path", "body", "right"), REQUESTS)
def test_an_operation_on_another_queue_is_forbidden(
    limited: Gateway, method: str, path: str, body: Any, right: Right
) -> None:
    def ask(queue: str) -> Any:
        return limited.ask(method, path.format(queue=queue), body, {"Content-Type": ENVELOPE}, key=LIMITED[right])

    assert ask("own").status not in (401, 403)
    answers = {ask(queue).body.replace(f"'{queue}".encode(), b"QUEUE") for queue in ("other", "owner", "shop", "nowhere")}
    # The answer does not depend on whether the queue exists.
    assert len(answers) == 1
    refused = ask("other")
    assert (refused.status, refused.code) == (403, "Forbidden")
    assert "limited to other queues than 'other" in refused.json["error"]["message"]


def test_no_spelling_of_a_path_reaches_another_queue(limited: Gateway) -> None:
    for path in ("/own/../other", "/own/%2e%2e/other", "/own%2F..%2Fother", "//other", "/./other", "/OWN", "/shop%2Fown2"):
        for below in ("/sessions", "/sessions/s/messages"):
            assert limited.ask("GET", path + below, key=LIMITED[Right.LISTEN]).status in (400, 403, 404), path + below
    assert limited.ask("GET", "/shop%2Fown/sessions", key=LIMITED[Right.LISTEN]).status == 200


def test_a_topic_includes_its_subscriptions(limited: Gateway) -> None:
    assert limited.ask("GET", "/topic/subscriptions/s/sessions", key=LIMITED[Right.LISTEN]).status == 200
    assert limited.ask("GET", "/other/subscriptions/s/sessions", key=LIMITED[Right.LISTEN]).status == 403


def test_a_limited_key_lists_only_its_own_queues(limited: Gateway) -> None:
    def listed(key: AccessKey) -> list[str]:
        return [queue["QueueName"] for queue in limited.ask("GET", "/", key=key).json["queues"]]

    assert listed(LIMITED[Right.MANAGE]) == [name for name in listed(KEYS[0]) if name in OWN or name.startswith("topic/")]
    assert len(listed(LIMITED[Right.MANAGE])) < len(listed(KEYS[0]))


def test_a_limited_key_can_create_and_delete_its_own_queues_only(limited: Gateway) -> None:
    for path, created, deleted in (("/own-new", (200, 201), 204), ("/foreign", (403,), 403)):
        assert limited.ask("PUT", path, {}, key=LIMITED[Right.MANAGE]).status in created
        assert limited.ask("DELETE", path, key=LIMITED[Right.MANAGE]).status == deleted


@pytest.mark.parametrize(
    "operation",
    [one for one in Operation if one not in OPEN and "{entity}" not in described(one).path],
    ids=lambda one: one.value,
)
def test_an_operation_on_all_queues_is_forbidden_unless_it_is_the_list(limited: Gateway, operation: Operation) -> None:
    at = described(operation)
    reply = limited.ask(at.method.upper(), at.path, key=LIMITED[Right.MANAGE])
    assert reply.status == (200 if operation is Operation.LIST_QUEUES else 403)
