"""The pages with queues, sessions and messages."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from azsession import Message
from azsession.broker.calls import AcceptRequest, Disposition, ReceiveRequest, Settlement
from azsession.queues import QueueSettings
from azsession.server.explorer.backend import before
from azsession.server.explorer.message_pages import PAGE as MESSAGES
from azsession.server.explorer.queue_pages import PAGE as SESSIONS

from .visitor import LOCK, Site, Visitor, text_of


def test_the_queues_have_counts(site: Site, visitor: Visitor) -> None:
    site.send("orders", "a", "b", "c")
    site.dead_letter("orders", "d", session_id="t")
    site.broker.accept(AcceptRequest("orders", "s", LOCK, timeout=0)).result()
    at = datetime.now(timezone.utc) + timedelta(hours=5)
    site.broker.send("orders", [Message("later", session_id="s", scheduled_enqueue_time=at)] * 2).result()
    text = text_of(visitor.get("queues"))
    assert "Queues 2" in text
    row = text[text.index("orders") :].split()
    # Active, sessions, locked, scheduled, deferred, dead letters, and the age of the oldest message.
    assert row[1:7] == ["3", "1", "1", "2", "0", "1"]
    assert row[8] == "s"
    tiles = text_of(visitor.get("sessions", {"queue": "orders"}))
    assert "Active 3 Sessions 1 1 locked Oldest" in tiles
    assert "Scheduled 2 Deferred 0 Dead letters 1" in tiles


def test_many_queues_are_on_several_pages_and_can_be_found(site: Site, visitor: Visitor) -> None:
    for number in range(60):
        site.broker.create_queue(f"many-{number:02}", QueueSettings()).result()
    first = visitor.get("queues").text
    assert "many-49</a>" in first
    assert "many-50</a>" not in first
    assert "many-59</a>" in visitor.get("queues", {"start": "50"}).text
    found = visitor.get("queues", {"find": "ANY-59"}).text
    assert "many-59</a>" in found
    assert "many-58</a>" not in found
    assert "No queue has this in its name" in visitor.get("queues", {"find": "<x>"}).text


def test_sessions_are_on_pages(site: Site, visitor: Visitor) -> None:
    for number in range(SESSIONS + 1):
        site.send("orders", "x", session_id=f"s{number:03}")
    site.send("orders", "x", session_id="")
    first = visitor.get("sessions", {"queue": "orders"}).text
    assert "(empty id)" in first
    assert "s048" in first
    assert "s049" not in first
    assert "after=s048" in first
    second = visitor.get("sessions", {"queue": "orders", "after": "s048"}).text
    assert "s049" in second
    assert "s050" in second
    assert "Next page" not in second
    assert "First page" in second


def test_a_session_shows_its_lock(site: Site, visitor: Visitor) -> None:
    site.send("orders", "x")
    assert "free" in text_of(visitor.get("sessions", {"queue": "orders"}))
    site.broker.accept(AcceptRequest("orders", "s", LOCK, timeout=0, client="worker-7:42")).result()
    for page, query in (("sessions", {}), ("messages", {"session": "s"})):
        text = text_of(visitor.get(page, {"queue": "orders", **query}))
        assert "locked" in text
        assert " s left" in text or "1 min left" in text
        assert "worker-7:42" in text
        assert LOCK not in text


def test_a_session_shows_its_state_its_deferred_messages_and_a_delay(site: Site, visitor: Visitor) -> None:
    site.send("orders", "a", "b")
    received = site.broker.receive(ReceiveRequest("orders", "s", LOCK, max_count=2, timeout=0)).result().messages
    site.broker.set_state("orders", "s", LOCK, b"the state").result()
    tokens = [message.receipt.handle for message in received]
    settlements = [Settlement(tokens[0], Disposition.DEFER), Settlement(tokens[1], Disposition.ABANDON, delay=300)]
    site.broker.settle("orders", "s", settlements).result()
    site.broker.release("orders", "s", LOCK).result()
    text = text_of(visitor.get("sessions", {"queue": "orders"}))
    assert "delayed for 4 min 59 s" in text or "delayed for 5 min" in text
    assert "yes" in text
    assert "the state" not in text
    text = text_of(visitor.get("messages", {"queue": "orders", "session": "s"}))
    assert "Deferred 1" in text
    assert "State yes" in text


@pytest.mark.parametrize(
    "session_id", ["", "a", "a/b", "\x00", "a\x00", "é", "\ue000", "\uffff", "\U0001f600", "..", "a&b=c?#", " "]
)
def test_every_session_has_a_page(site: Site, visitor: Visitor, session_id: str) -> None:
    for other in ("", "0", "a", "zz", session_id + "x", session_id[:-1] + "0" if session_id else "y"):
        if other != session_id:
            site.send("orders", "other", session_id=other)
    site.send("orders", "the body", session_id=session_id)
    site.broker.accept(AcceptRequest("orders", session_id, LOCK, timeout=0)).result()
    page = visitor.get("messages", {"queue": "orders", "session": session_id})
    assert page.text.count("the body") == 1
    assert "locked" in page.text


def test_the_id_before_another() -> None:
    assert before("") is None
    for session_id in ("a", "\x00", "ab", "\ue000", "\U0010ffff"):
        previous = before(session_id)
        assert previous is not None
        assert previous < session_id
        assert previous.encode() < session_id.encode()


def test_messages_are_on_pages(site: Site, visitor: Visitor) -> None:
    site.send("orders", *(f"body {number:03}" for number in range(MESSAGES + 2)))
    first = visitor.get("messages", {"queue": "orders", "session": "s"}).text
    assert "body 024" in first
    assert "body 025" not in first
    second = visitor.get("messages", {"queue": "orders", "session": "s", "start": MESSAGES + 1}).text
    assert "body 025" in second
    assert "body 026" in second
    assert "Next page" not in second
    empty = visitor.get("messages", {"queue": "orders", "session": "s", "start": 999})
    assert "No more messages" in empty.text
    assert "This session has no messages" in visitor.get("messages", {"queue": "orders", "session": "none"}).text


def test_a_page_of_large_messages_is_complete(site: Site, visitor: Visitor) -> None:
    # The broker returns fewer messages at once than it is asked for.
    for number in range(12):
        site.send("orders", f"body {number:02} " + "x" * 900_000)
    page = visitor.get("messages", {"queue": "orders", "session": "s"})
    assert [f"body {number:02}" in page.text for number in range(12)] == [True] * 12
    assert "Next page" not in page.text
    assert len(page.content) < 50_000


def test_a_message_shows_its_properties(site: Site, visitor: Visitor) -> None:
    site.send(
        "orders",
        '{"paid": true}',
        message_id="m-1",
        subject="paid",
        content_type="application/json",
        correlation_id="c-1",
        reply_to="answers",
        reply_to_session_id="r-1",
        to="billing",
        time_to_live=timedelta(hours=2),
        attributes={"amount": 12.5, "vip": True, "raw": b"\x01"},
    )
    text = text_of(visitor.get("message", {"queue": "orders", "session": "s", "number": 1}))
    for shown in (
        "m-1",
        "Subject paid",
        "application/json",
        "c-1",
        "answers",
        "r-1",
        "billing",
        "2 h",
        "Deliveries 0",
        "14 bytes",
    ):
        assert shown in text, shown
    assert "amount 12.5 number" in text
    assert "vip true boolean" in text
    assert "raw 01 bytes" in text


def test_a_scheduled_and_a_deferred_message_say_so(site: Site, visitor: Visitor) -> None:
    at = datetime.now(timezone.utc) + timedelta(hours=5)
    site.broker.send("orders", [Message("later", session_id="s", scheduled_enqueue_time=at)]).result()
    text = text_of(visitor.get("messages", {"queue": "orders", "session": "s"}))
    assert "Scheduled" in text
    text = text_of(visitor.get("message", {"queue": "orders", "session": "s", "number": 1}))
    assert "Scheduled for" in text
    assert "in 4 h 59 min" in text or "in 5 h" in text


@pytest.mark.parametrize(
    ("content_type", "suffix"),
    [
        ("application/json", ".json"),
        ("application/problem+json; a=b", ".json"),
        ("text/plain", ".txt"),
        ("text/html", ".bin"),
        (None, ".bin"),
    ],
)
def test_a_body_is_downloaded_and_never_shown(site: Site, visitor: Visitor, content_type: str | None, suffix: str) -> None:
    body = b"<script>alert(1)</script>\x00" * 40_000
    site.send("orders", body, content_type=content_type)
    answer = visitor.get("body", {"queue": "orders", "session": "s", "number": 1})
    assert answer.content == body
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="message-1{suffix}"'
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_text_of_a_message_is_in_no_header(site: Site, visitor: Visitor) -> None:
    hostile = 'application/json\r\nX-Injected: 1"; filename="evil.exe'
    site.send("orders", "x", content_type=hostile, subject=hostile, message_id=hostile)
    site.dead_letter("orders", "y", session_id=hostile, content_type=hostile, reason=hostile)
    for page, query in (("body", {"session": "s"}), ("dead-letter-body", {}), ("dead-letters", {})):
        answer = visitor.get(page, {"queue": "orders", "number": 1 if "session" in query else 2, **query})
        assert answer.status_code == 200
        assert "X-Injected" not in answer.headers
        assert "evil" not in str(answer.headers)


def test_a_message_that_is_gone_says_so(visitor: Visitor) -> None:
    for page in ("message", "body", "dead-letter", "dead-letter-body", "resubmit", "delete"):
        answer = visitor.get(page, {"queue": "orders", "session": "s", "number": 77})
        assert answer.status_code == 404
        assert "not there any more" in answer.text


def test_a_missing_queue_says_so(visitor: Visitor) -> None:
    answer = visitor.get("sessions", {"queue": "missing"})
    assert answer.status_code == 404
    assert "There is no such queue" in answer.text


def test_the_messages_of_a_session_are_deleted_after_a_question(site: Site, visitor: Visitor) -> None:
    site.send("orders", "a", "b")
    site.send("orders", "c", session_id="t")
    site.dead_letter("orders", "d", session_id="u")
    query = {"queue": "orders", "session": "s"}
    assert "Delete the messages of this session?" in visitor.get("purge", query).text
    answer = visitor.post("purge", {}, query)
    assert answer.headers["Location"] == "messages?queue=orders&session=s&done=purged"
    assert (site.bodies("orders", "s"), site.bodies("orders", "t"), site.dead("orders")) == ([], [b"c"], [b"d"])
    assert "The messages were deleted." in visitor.get(answer.headers["Location"]).text


def test_a_session_that_a_client_holds_is_not_emptied(site: Site, visitor: Visitor) -> None:
    site.send("orders", "a")
    site.broker.accept(AcceptRequest("orders", "s", LOCK, timeout=0)).result()
    answer = visitor.post("purge", {}, {"queue": "orders", "session": "s"})
    assert answer.status_code == 409
    assert "A client holds this session now" in answer.text
    assert site.bodies("orders") == [b"a"]


def test_an_update_has_the_changing_part_alone(site: Site, visitor: Visitor) -> None:
    site.send("orders", "x")
    pages = [("queues", {}), ("sessions", {"queue": "orders"}), ("messages", {"queue": "orders", "session": "s"})]
    pages.append(("dead-letters", {"queue": "orders"}))
    for page, query in pages:
        whole, part = visitor.get(page, query).text, visitor.get(page, {**query, "live": "1"}).text
        assert "<html" in whole
        assert "<html" not in part
        assert "csrf" not in part
        assert part.strip() in whole
    assert Visitor(site).get("queues", {"live": "1"}).status_code == 401
