"""Sending a message with the form."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from .visitor import Site, Visitor

ORDERS = {"queue": "orders"}


def test_a_message_with_everything(site: Site, visitor: Visitor) -> None:
    at = datetime.now(timezone.utc).replace(second=0, microsecond=0) + timedelta(days=2)
    form = {
        "session_id": "a/b ü",
        "body": "first\r\nsecond €",
        "message_id": "m",
        "subject": "s",
        "content_type": "text/plain",
        "correlation_id": "c",
        "reply_to": "r",
        "reply_to_session_id": "rs",
        "to": "t",
        "time_to_live": "3600.5",
        "scheduled": f"{at:%Y-%m-%dT%H:%M}",
        "attributes": 'a=1\r\n\r\nb = two words\nc=1.50\nd=true\ne=null\nf="007"\ng=007\nh=\ni=a=b',
    }
    answer = visitor.post("send", form, ORDERS)
    assert answer.headers["Location"] == "messages?queue=orders&session=a%2Fb+%C3%BC&done=sent"
    (message,) = site.broker.peek("orders", "a/b ü", 0, 10).result()
    assert message.body == "first\nsecond €".encode()
    assert (message.message_id, message.subject, message.content_type) == ("m", "s", "text/plain")
    assert (message.correlation_id, message.reply_to, message.to, message.reply_to_session_id) == ("c", "r", "t", "rs")
    assert message.time_to_live == timedelta(seconds=3600.5)
    assert (message.scheduled_enqueue_time, message.state) == (at, "Scheduled")
    assert message.attributes == {
        "a": 1, "b": "two words", "c": 1.5, "d": True, "e": None, "f": "007", "g": "007", "h": "", "i": "a=b",
    }  # fmt: skip
    assert "The message was sent." in visitor.get(answer.headers["Location"]).text


@pytest.mark.parametrize("session_id", ["", "a\x00b", "line\r\nbreak", "\u202e", "s" * 128])
def test_a_message_to_a_session_that_was_chosen(site: Site, visitor: Visitor, session_id: str) -> None:
    query = {**ORDERS, "session": session_id}
    assert visitor.get("send", query).status_code == 200
    assert visitor.post("send", {"body": "x", "session_id": "not this"}, query).status_code == 303
    assert site.bodies("orders", session_id) == [b"x"]


def test_a_form_that_is_sent_twice_sends_one_message(site: Site, visitor: Visitor) -> None:
    form = {"session_id": "s", "body": "x", "request_id": "0b9a2a56-6b3a-4a5e-9a3e-0123456789ab"}
    for _ in range(2):
        assert visitor.post("send", form, ORDERS).status_code == 303
    assert site.bodies("orders") == [b"x"]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("session_id", "x" * 129, "128"),
        ("time_to_live", "soon", "number of seconds"),
        ("time_to_live", "0", "time_to_live"),
        ("time_to_live", "-1", "number of seconds"),
        ("scheduled", "tomorrow", "2026-03-01T12:30"),
        ("scheduled", "2026-03-01T12:30+02:00", "2026-03-01T12:30, in UTC"),
        ("attributes", "novalue", "Line 1 of the attributes"),
        ("attributes", "a=1\na=2", "is there twice"),
        ("attributes", "=1", "Line 1 of the attributes"),
        ("attributes", "a\x00=1", "control characters"),
        ("attributes", "a=" + "x" * 70_000, "attributes"),
        ("subject", "x" * 5000, "subject"),
        ("message_id", "x" * 129, "message_id"),
    ],
)
def test_a_wrong_field_is_explained_and_the_form_keeps_its_values(
    site: Site, visitor: Visitor, field: str, value: str, problem: str
) -> None:
    form = {"session_id": "s", "body": "<b>kept</b>", field: value}
    answer = visitor.post("send", form, ORDERS)
    assert answer.status_code == 400
    assert problem in answer.text
    assert "&lt;b&gt;kept&lt;/b&gt;" in answer.text
    assert site.bodies("orders") == []


def test_a_message_to_a_missing_queue_is_refused(visitor: Visitor) -> None:
    answer = visitor.post("send", {"session_id": "s", "body": "x"}, {"queue": "missing"})
    assert answer.status_code == 400
    assert "missing" in answer.text


def test_a_text_field_keeps_a_line_break_at_the_start(visitor: Visitor) -> None:
    # Browsers drop the first line break of a text field.
    answer = visitor.post("send", {"session_id": "x" * 129, "body": "\nkept"}, ORDERS)
    assert '<textarea id="body" name="body" rows="10" spellcheck="false" class="mono">\n\nkept</textarea>' in answer.text
