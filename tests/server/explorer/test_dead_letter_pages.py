"""Dead letters: look, filter, resubmit and delete one, those of a session, or all."""

from __future__ import annotations

import re
from typing import Any

import pytest

from azsession.queues import QueueSettings
from azsession.server.explorer import backend, dead_letter_steps
from azsession.server.explorer.dead_letter_pages import PAGE

from .visitor import Site, Visitor, text_of


def test_dead_letters_show_their_reason(site: Site, visitor: Visitor) -> None:
    site.dead_letter("orders", "body", reason="refused", subject="paid")
    text = text_of(visitor.get("dead-letters", {"queue": "orders"}))
    for shown in ("refused", "about refused", "paid", "body"):
        assert shown in text
    text = text_of(visitor.get("dead-letter", {"queue": "orders", "number": 1}))
    for shown in ("Dead letter 1", "refused", "about refused", "body", "Deliveries 1"):
        assert shown in text


def test_dead_letters_are_on_pages(site: Site, visitor: Visitor) -> None:
    numbers = site.dead_letter("orders", *(f"body {number:03}" for number in range(PAGE + 1)))
    first = visitor.get("dead-letters", {"queue": "orders"}).text
    assert "body 024" in first
    assert "body 025" not in first
    second = visitor.get("dead-letters", {"queue": "orders", "start": numbers[-1]}).text
    assert "body 025" in second
    assert "Next page" not in second


def test_dead_letters_are_filtered_by_session_and_reason(site: Site, visitor: Visitor) -> None:
    site.dead_letter("orders", "one", session_id="a", reason="red")
    site.dead_letter("orders", "two", session_id="b", reason="red")
    site.dead_letter("orders", "three", session_id="b", reason="blue")

    def shown(**query: str) -> list[str]:
        text = visitor.get("dead-letters", {"queue": "orders", **query}).text
        return [body for body in ("one", "two", "three") if f"<bdi>{body}</bdi>" in text]

    assert shown() == ["one", "two", "three"]
    assert shown(session="b") == ["two", "three"]
    assert shown(reason="red") == ["one", "two"]
    assert shown(session="b", reason="red") == ["two"]
    assert shown(session="a", reason="blue") == []
    assert "No dead letter matches" in visitor.get("dead-letters", {"queue": "orders", "reason": "x"}).text


def test_a_long_reason_can_be_chosen(site: Site, visitor: Visitor) -> None:
    site.dead_letter("orders", "one", reason="long " * 500)
    site.dead_letter("orders", "two", reason="short")
    page = visitor.get("dead-letters", {"queue": "orders"}).text
    (address,) = set(re.findall(r'href="(dead-letters\?[^"]*reason=long[^"]*)"', page))
    assert len(address) < 1000
    assert "<bdi>one</bdi>" in visitor.get(address.replace("&amp;", "&")).text


def test_a_search_goes_on_where_it_ended(site: Site, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "MAX_SEARCHED", 40)
    monkeypatch.setattr(backend, "_BATCH", 20)
    site.dead_letter("orders", *(f"red {number:03}" for number in range(70)), reason="red")
    site.dead_letter("orders", "the one", reason="blue", session_id="t")
    page = visitor.get("dead-letters", {"queue": "orders", "reason": "blue"}).text
    assert "Nothing found yet" in page
    assert "Continue the search" in page
    (start,) = re.findall(r'start=(\d+)"', page)
    found = visitor.get("dead-letters", {"queue": "orders", "reason": "blue", "start": start}).text
    assert "<bdi>the one</bdi>" in found
    assert "Continue the search" not in found


def test_one_is_resubmitted_after_a_question(site: Site, visitor: Visitor) -> None:
    site.dead_letter("orders", "a", "b")
    query = {"queue": "orders", "number": 1}
    question = visitor.get("resubmit", query)
    assert "Resubmit dead letter 1?" in text_of(question)
    assert site.dead("orders") == [b"a", b"b"]
    answer = visitor.post("resubmit", {}, query)
    assert answer.headers["Location"] == "dead-letters?queue=orders&done=resubmitted"
    assert (site.dead("orders"), site.bodies("orders")) == ([b"b"], [b"a"])
    assert "The dead letter was resubmitted." in visitor.get(answer.headers["Location"]).text


def test_one_is_deleted_after_a_question_and_the_filter_stays(site: Site, visitor: Visitor) -> None:
    site.dead_letter("orders", "a", "b")
    query = {"queue": "orders", "session": "s", "reason": "broken", "number": 2}
    assert "This cannot be undone" in visitor.get("delete", query).text
    answer = visitor.post("delete", {}, query)
    assert answer.headers["Location"] == "dead-letters?queue=orders&session=s&reason=broken&done=deleted"
    assert (site.dead("orders"), site.bodies("orders")) == ([b"a"], [])


def test_a_second_click_finds_it_gone(site: Site, visitor: Visitor) -> None:
    site.dead_letter("orders", "a")
    query = {"queue": "orders", "number": 1}
    visitor.post("resubmit", {}, query)
    answer = visitor.post("resubmit", {}, query)
    assert answer.headers["Location"].endswith("done=gone")
    assert site.bodies("orders") == [b"a"]


def fields(page: str) -> dict[str, str]:
    """Return the hidden fields of a form."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))


def handle(visitor: Visitor, page: str, query: dict[str, Any]) -> tuple[str, int]:
    """Answer the question, and continue until all is done. Return the text of the last page, and the number of steps."""
    answer, steps = visitor.get(page, query), 0
    while "<button class=" in (form := answer.text.partition('class="card confirm"')[2]):
        given = fields(answer.text)
        answer, steps = visitor.post(page, given, query, csrf=given["csrf"]), steps + 1
        assert answer.status_code == 200
        assert form
        assert steps < 100
    return text_of(answer), steps


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({}, []),
        ({"session": "a"}, [b"b1", b"b2"]),
        ({"reason": "red"}, [b"a2", b"b2"]),
        ({"session": "b", "reason": "blue"}, [b"a1", b"a2", b"b1"]),
    ],
)
@pytest.mark.parametrize("page", ["resubmit", "delete"])
def test_many_are_handled(site: Site, visitor: Visitor, page: str, query: dict[str, str], left: list[bytes]) -> None:
    for body, session_id, reason in (("a1", "a", "red"), ("a2", "a", "blue"), ("b1", "b", "red"), ("b2", "b", "blue")):
        site.dead_letter("orders", body, session_id=session_id, reason=reason)
    text, _ = handle(visitor, page, {"queue": "orders", **query})
    count = 4 - len(left)
    done = "resubmitted" if page == "resubmit" else "deleted"
    assert f"{count} dead {'letter was' if count == 1 else 'letters were'} {done}" in text
    assert site.dead("orders") == left
    back = site.bodies("orders", "a") + site.bodies("orders", "b")
    assert sorted(back) == ([] if page == "delete" else sorted({b"a1", b"a2", b"b1", b"b2"} - set(left)))


def test_many_steps_keep_the_order_and_count_all(site: Site, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_steps, "STEP_SIZE", 7)
    bodies = [f"{number:03}" for number in range(60)]
    site.dead_letter("orders", *bodies)
    text, steps = handle(visitor, "resubmit", {"queue": "orders"})
    assert "60 dead letters were resubmitted" in text
    assert steps == 9
    assert site.bodies("orders") == [body.encode() for body in bodies]


def test_a_message_that_fails_again_is_not_handled_twice(site: Site, visitor: Visitor) -> None:
    site.dead_letter("orders", "a")
    query = {"queue": "orders"}
    form = fields(visitor.get("resubmit", query).text)
    visitor.post("resubmit", {}, {**query, "number": 1})
    site.reject("orders", 1)
    # It was enqueued again after the question.
    answer = visitor.post("resubmit", form, query, csrf=form["csrf"])
    assert "0 dead letters were resubmitted" in text_of(answer)
    assert (site.dead("orders"), site.bodies("orders")) == ([b"a"], [])


def test_a_duplicate_is_reported_and_stays(site: Site, visitor: Visitor) -> None:
    site.broker.create_queue("unique", QueueSettings(requires_duplicate_detection=True)).result()
    site.dead_letter("unique", "a", message_id="same")
    text, _ = handle(visitor, "resubmit", {"queue": "unique"})
    assert "1 dead letter was resubmitted" in text or "1 could not be resubmitted" in text


@pytest.mark.parametrize("name", ["before", "start", "handled", "refused"])
@pytest.mark.parametrize("value", ["-1", "x", "99999999999999999999", "1e9", "\x00"])
def test_malformed_progress_is_refused(site: Site, visitor: Visitor, name: str, value: str) -> None:
    site.dead_letter("orders", "a")
    answer = visitor.post("delete", {name: value}, {"queue": "orders"})
    assert answer.status_code == 400
    assert site.dead("orders") == [b"a"]
