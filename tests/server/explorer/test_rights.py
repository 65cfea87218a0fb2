"""Which key sees and may do what. A page does not offer what the key may not do, and the gateway refuses it anyway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession.server import AccessKey, Right

from .visitor import LISTEN, METRICS, ORDERS, ROOT, SEND, Site, Visitor, serving, text_of

#: Pages that show something of a queue or a session.
LOOKS = ("sessions", "messages", "message", "body", "dead-letters", "dead-letter", "dead-letter-body")
#: Forms that need the right Listen.
HANDLES = ("purge", "resubmit", "delete")
#: Fields that all of these pages can have.
FIELDS = {"session": "s", "number": "1"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with serving() as site:
        for queue in ("orders", "other"):
            site.send(queue, "a body")
            site.dead_letter(queue, "a dead letter", session_id="d")
        yield site


@pytest.mark.parametrize(
    ("key", "queue"),
    [(SEND, "orders"), (SEND, "other"), (METRICS, "orders"), (ORDERS, "other")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_key_without_listen_for_a_queue_sees_and_changes_nothing_there(shared: Site, key: AccessKey, queue: str) -> None:
    visitor = Visitor(shared, key)
    before = shared.bodies(queue), shared.dead(queue)
    for page in (*LOOKS, *HANDLES):
        answer = visitor.get(page, {"queue": queue, **FIELDS})
        assert answer.status_code == 403, page
        assert "Your key does not allow this" in answer.text
        assert "a body" not in answer.text
    for page in HANDLES:
        assert visitor.post(page, query={"queue": queue, **FIELDS}).status_code == 403
        assert visitor.post(page, query={"queue": queue, "session": "s"}).status_code == 403
    assert (shared.bodies(queue), shared.dead(queue)) == before


@pytest.mark.parametrize("key", [LISTEN, METRICS, ORDERS], ids=lambda key: key.name)
def test_a_key_without_send_for_a_queue_sends_nothing_to_it(shared: Site, key: AccessKey) -> None:
    visitor = Visitor(shared, key)
    before = shared.bodies("other")
    assert visitor.get("send", {"queue": "other"}).status_code == 403
    assert visitor.post("send", {"session_id": "s", "body": "no"}, {"queue": "other"}).status_code == 403
    assert shared.bodies("other") == before


def test_the_answer_is_the_same_for_a_queue_that_does_not_exist(shared: Site) -> None:
    visitor = Visitor(shared, ORDERS)
    there, not_there = (visitor.get("sessions", {"queue": name}) for name in ("other", "missing"))
    assert there.status_code == not_there.status_code == 403
    assert there.text.replace("other", "").replace("missing", "") == not_there.text.replace("missing", "").replace(
        "other", ""
    )


def test_a_key_with_listen_is_offered_no_form_to_send(shared: Site) -> None:
    visitor = Visitor(shared, LISTEN)
    for page, query in (("sessions", {}), ("messages", {"session": "s"}), ("dead-letters", {})):
        html = visitor.get(page, {"queue": "orders", **query}).text
        assert "send?" not in html
    assert "resubmit?" in visitor.get("dead-letters", {"queue": "orders"}).text


def test_a_key_with_send_is_offered_a_form_to_send_and_learns_no_name_of_a_queue(shared: Site) -> None:
    visitor = Visitor(shared, SEND)
    page = visitor.get("queues")
    assert "orders</a>" not in page.text
    assert "may not list queues" in text_of(page)
    assert 'action="send"' in page.text
    answer = visitor.post("send", {"session_id": "sent", "body": "hello"}, {"queue": "orders"})
    # This key may not look at the message that it sent.
    assert answer.headers["Location"] == "send?queue=orders&done=sent"
    assert "The message was sent" in visitor.get(answer.headers["Location"]).text
    assert shared.bodies("orders", "sent") == [b"hello"]
    assert "sessions?" not in visitor.get("send", {"queue": "orders"}).text


def test_a_limited_key_sees_its_own_queues_alone(shared: Site) -> None:
    page = Visitor(shared, ORDERS).get("queues").text
    assert "orders</a>" in page
    assert ">other<" not in page


def test_a_limited_key_sees_which_of_its_queues_do_not_exist() -> None:
    key = AccessKey("two", "dHdv", frozenset({Right.LISTEN}), queues=frozenset({"orders", "later"}))
    with serving(keys=[ROOT, key]) as site:
        assert "later not created yet" in text_of(Visitor(site, key).get("queues"))


def test_a_limited_key_that_may_only_send_gets_links_to_send() -> None:
    key = AccessKey("two", "dHdv", frozenset({Right.SEND}), queues=frozenset({"orders"}))
    with serving(keys=[ROOT, key]) as site:
        page = Visitor(site, key).get("queues")
        assert 'href="send?queue=orders"' in page.text
        assert "sessions?" not in page.text


def test_a_key_for_metrics_sees_nothing(shared: Site) -> None:
    page = Visitor(shared, METRICS).get("queues")
    assert page.status_code == 200
    assert "orders</a>" not in page.text
    assert "sessions?" not in page.text


def test_the_rights_are_those_of_the_protocol(shared: Site) -> None:
    visitor = Visitor(shared, ROOT)
    assert all(
        visitor.get(page, {"queue": "orders", **FIELDS}).status_code in (200, 404) for page in (*LOOKS, *HANDLES, "send")
    )
