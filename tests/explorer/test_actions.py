"""Every action in Chromium, with and without JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone

import pytest

from azsession.server.explorer import dead_letter_steps

from ..server.explorer.visitor import LISTEN, ORDERS, ROOT, SEND, Site
from .browser import BrowserThread
from .conftest import signed_in
from .window import Window


@pytest.fixture(params=[True, False], ids=["with script", "without script"])
def user(request: pytest.FixtureRequest, chromium: BrowserThread, open_window: Callable[..., Window], site: Site) -> Window:
    """A user with and without JavaScript."""
    return chromium.call(signed_in, open_window, site, java_script_enabled=request.param)


def test_from_the_queues_to_the_body_of_a_message(site: Site, user: Window) -> None:
    site.send("orders", '{"paid":true}', "plain", session_id="order/42", subject="paid", attributes={"priority": 1})
    user.open("queues")
    user.press("orders")
    user.press("order/42")
    user.press("Message 1")
    assert '{ "paid": true }' in user.text()
    assert "priority 1 integer" in user.text()
    user.press("Text")
    assert '{"paid":true}' in user.text()
    user.press("Hex")
    assert "7b 22 70 61" in user.text()
    user.press("JSON")
    with user.page.expect_download() as download:
        user.press("Download")
    assert download.value.suggested_filename == "message-1.bin"
    assert download.value.path().read_bytes() == b'{"paid":true}'


def test_a_message_is_sent(site: Site, user: Window) -> None:
    user.open("sessions", queue="orders")
    user.press("Send")
    page = user.page
    page.get_by_label("Session", exact=True).fill("order-1")
    page.get_by_label("Body").fill("first line\nsecond line")
    page.get_by_label("Subject").fill("paid")
    page.get_by_label("Attributes").fill("amount=12.5\nvip=true")
    page.get_by_text("More properties").click()
    page.get_by_label("Message id").fill("m-1")
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/messages?**")
    assert "The message was sent." in user.text()
    assert "paid" in user.text()
    (message,) = site.broker.peek("orders", "order-1", 0, 10).result()
    assert (message.body, message.message_id) == (b"first line\nsecond line", "m-1")
    assert message.attributes == {"amount": 12.5, "vip": True}


def test_a_message_is_scheduled(site: Site, user: Window) -> None:
    page = user.open("send", queue="orders", session="s")
    page.get_by_label("Body").fill("later")
    page.get_by_text("More properties").click()
    page.get_by_label("Available from (UTC)").fill("2099-03-01T12:30")
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/messages?**")
    assert "Scheduled" in user.text()
    (message,) = site.broker.peek("orders", "s", 0, 10).result()
    assert message.scheduled_enqueue_time == datetime(2099, 3, 1, 12, 30, tzinfo=timezone.utc)


def test_a_dead_letter_is_resubmitted_and_another_deleted(site: Site, user: Window) -> None:
    site.dead_letter("orders", "one", "two", "three", reason="refused")
    user.open("sessions", queue="orders")
    user.page.get_by_role("link", name="Dead letters").click()
    user.press("Resubmit… dead letter 1")
    assert "Resubmit dead letter 1?" in user.text()
    user.press("Cancel")
    assert site.dead("orders") == [b"one", b"two", b"three"]
    user.press("Resubmit… dead letter 1")
    user.press("Resubmit")
    assert "The dead letter was resubmitted." in user.text()
    assert site.bodies("orders") == [b"one"]
    user.press("Dead letter 2")
    user.press("Delete…")
    assert "cannot be undone" in user.text()
    user.press("Delete")
    assert "The dead letter was deleted." in user.text()
    assert site.dead("orders") == [b"three"]


def test_dead_letters_are_filtered_and_handled_together(site: Site, user: Window) -> None:
    site.dead_letter("orders", "a1", session_id="a", reason="red")
    site.dead_letter("orders", "b1", session_id="b", reason="red")
    site.dead_letter("orders", "b2", session_id="b", reason="blue")
    page = user.open("dead-letters", queue="orders")
    page.get_by_label("Session").fill("b")
    user.press("Filter")
    user.press("red")
    assert "b1" in user.text()
    assert "b2" not in user.text()
    user.press("Resubmit all…")
    assert "Resubmit these dead letters?" in user.text()
    user.press("Resubmit")
    assert "1 dead letter was resubmitted" in user.text()
    assert site.dead("orders") == [b"a1", b"b2"]
    user.press("Back to the dead letters")
    user.press("Delete all…")
    assert "Dead letters 2" in user.text()
    user.press("Delete")
    assert "2 dead letters were deleted" in user.text()
    assert site.dead("orders") == []
    user.press("Back to the dead letters")
    assert "No dead letters" in user.text()


@pytest.fixture
def _small_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead_letter_steps, "STEP_SIZE", 4)
        yield


@pytest.mark.usefixtures("_small_steps")
def test_the_script_continues_with_the_next_step(site: Site, window: Window) -> None:
    site.dead_letter("orders", *(str(number) for number in range(10)))
    window.open("delete", queue="orders")
    window.press("Delete")
    window.page.get_by_text("10 dead letters were deleted").wait_for()
    assert site.dead("orders") == []


@pytest.mark.usefixtures("_small_steps")
def test_without_the_script_a_button_continues(site: Site, open_window: Callable[..., Window]) -> None:
    site.dead_letter("orders", *(str(number) for number in range(10)))
    user = signed_in(open_window, site, java_script_enabled=False)
    user.open("delete", queue="orders")
    user.press("Delete")
    assert "4 dead letters deleted so far" in user.text()
    assert "follow by themselves" not in user.text()
    user.press("Continue")
    user.press("Stop")
    assert len(site.dead("orders")) == 2


def test_the_messages_of_a_session_are_deleted(site: Site, user: Window) -> None:
    site.send("orders", "a", "b")
    user.open("messages", queue="orders", session="s")
    user.press("Delete messages…")
    user.press("Delete")
    assert "The messages were deleted." in user.text()
    assert site.bodies("orders") == []


def test_a_user_signs_out(user: Window) -> None:
    user.open("queues")
    user.press("Sign out")
    assert "You are signed out." in user.text()
    user.open("queues")
    assert user.page.url.endswith("/sign-in?to=queues")


def test_lists_have_pages(site: Site, user: Window) -> None:
    site.send("orders", *(f"body {number:02}" for number in range(30)))
    user.open("messages", queue="orders", session="s")
    user.press("Next page")
    assert "body 29" in user.text()
    assert "body 01" not in user.text()
    user.press("First page")
    assert "body 01" in user.text()


def test_empty_places_say_what_they_are_for(site: Site, user: Window) -> None:
    user.open("sessions", queue="orders")
    assert "No session has messages" in user.text()
    user.open("dead-letters", queue="orders")
    assert "No dead letters" in user.text()
    user.open("messages", queue="orders", session="s")
    assert "This session has no messages" in user.text()
    for name in ("orders", "other"):
        site.broker.delete_queue(name).result()
    user.open("queues")
    assert "There are no queues yet" in user.text()


def test_a_user_signs_in(site: Site, open_window: Callable[..., Window]) -> None:
    for script in (True, False):
        window = open_window(site.url, java_script_enabled=script)
        window.open("sessions", queue="orders")
        window.page.get_by_label("Name of the key").fill(ROOT.name)
        window.page.get_by_label("Secret, or a connection string").fill(ROOT.key)
        window.press("Sign in")
        window.page.wait_for_url("**/sessions?queue=orders")


def test_a_wrong_secret_is_explained(site: Site, open_window: Callable[..., Window]) -> None:
    window = open_window(site.url)
    page = window.open("sign-in")
    page.get_by_label("Name of the key").fill("root")
    page.get_by_label("Secret, or a connection string").fill("wrong")
    window.press("Sign in")
    assert page.get_by_role("alert").inner_text().startswith("No key has this name")
    assert page.get_by_label("Name of the key").input_value() == "root"
    assert page.get_by_label("Secret, or a connection string").input_value() == ""
    page.wait_for_function("document.activeElement.id === 'secret'")


def test_a_key_sees_what_it_may_do(site: Site, open_window: Callable[..., Window]) -> None:
    site.send("orders", "x")
    site.dead_letter("orders", "y", session_id="d")
    looker = signed_in(open_window, site, LISTEN)
    looker.open("messages", queue="orders", session="s")
    assert looker.page.get_by_role("link", name="Send").count() == 0
    looker.open("dead-letters", queue="orders")
    assert looker.page.get_by_role("link", name="Delete all…").count() == 1
    sender = signed_in(open_window, site, SEND)
    sender.open("queues")
    sender.page.get_by_label("Name of the queue").fill("orders")
    sender.press("Open")
    assert sender.page.get_by_role("navigation", name="Queue orders").get_by_role("link").all_inner_texts() == ["Send"]
    limited = signed_in(open_window, site, ORDERS)
    limited.open("queues")
    assert limited.page.get_by_role("link", name="other").count() == 0
    limited.open("sessions", queue="other")
    assert "Your key does not allow this" in limited.text()
