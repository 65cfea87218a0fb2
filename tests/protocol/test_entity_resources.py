"""The forms in which a token may name an entity."""

from __future__ import annotations

import pytest

from azsession.protocol.entity_resources import entity_resources
from azsession.protocol.routes import Operation, Route


@pytest.mark.parametrize(
    ("entity", "forms"),
    [
        ("", [()]),
        ("orders", [("orders",)]),
        ("site/orders", [("site", "orders")]),
        ("a/messages", [("a", "messages"), ("a", "~messages")]),
        ("metrics", [("metrics",), ("~metrics",)]),
        ("t/subscriptions/messages", [("t", "subscriptions", "messages")]),
        ("t/Subscriptions/sessions", [("t", "Subscriptions", "sessions")]),
        # As they are, these could be sessions of the queue `a`.
        ("a/sessions", [("a", "~sessions")]),
        ("a/sessions/s", [("a", "~sessions", "s")]),
        ("a/sessions/messages", [("a", "~sessions", "~messages")]),
    ],
)
def test_a_token_names_an_entity_with_marks_or_as_it_is(entity: str, forms: list[tuple[str, ...]]) -> None:
    assert list(entity_resources(entity)) == forms


@pytest.mark.parametrize("entity", ["a", "a/messages", "a/sessions", "a/sessions/s", "metrics", "a/messages/b"])
def test_no_form_is_one_of_a_session(entity: str) -> None:
    for form in entity_resources(entity):
        for queue in ("a", "a/messages", "metrics"):
            for session_id in ("s", "messages", "~sessions"):
                session = Route(Operation.RENEW, queue, session_id).resource
                assert session[: len(form)] != form or form == Route(Operation.SEND, queue).resource[: len(form)]
