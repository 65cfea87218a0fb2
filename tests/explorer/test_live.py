"""Updates of a page while it is shown. The time of the page is set by the test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..server.explorer.visitor import KEYS, Site
from .browser import BrowserThread
from .conftest import signed_in
from .window import Window


@pytest.fixture
def live(chromium: BrowserThread, open_window: Callable[..., Window], site: Site) -> Window:
    """A window with the sessions of a queue, and a clock that stands still."""

    def start() -> Window:
        window = signed_in(open_window, site)
        window.page.clock.install(time="2040-01-01T00:00:00")
        window.page.clock.pause_at("2040-01-01T00:00:01")
        window.open("sessions", queue="orders")
        return window

    return chromium.call(start)


def updates(window: Window) -> int:
    """Return how many updates the page has asked for."""
    return sum("live=1" in address for address in window.loaded)


def test_a_new_session_appears(site: Site, live: Window) -> None:
    site.send("orders", "x", session_id="fresh")
    assert "fresh" not in live.text()
    with live.page.expect_response("**live=1"):
        live.page.clock.run_for(5000)
    live.page.get_by_role("link", name="fresh").wait_for()
    assert updates(live) == 1


def test_the_focus_stays_where_it_was(site: Site, live: Window) -> None:
    link = live.page.get_by_role("navigation", name="Queue orders").get_by_role("link", name="Dead letters")
    link.focus()
    site.send("orders", "x", session_id="fresh")
    live.page.clock.run_for(5000)
    live.page.get_by_role("link", name="fresh").wait_for()
    assert live.page.evaluate("document.activeElement.innerText") == "Dead letters"


def test_a_field_with_the_focus_keeps_its_text(site: Site, live: Window) -> None:
    field = live.page.get_by_label("Open a session by its id")
    field.fill("half an")
    site.send("orders", "x", session_id="fresh")
    with live.page.expect_response("**live=1"):
        live.page.clock.run_for(5000)
    assert field.input_value() == "half an"
    assert "fresh" not in live.text()
    live.page.get_by_role("button", name="Live").focus()
    live.page.clock.run_for(5000)
    live.page.get_by_role("link", name="fresh").wait_for()


def test_updates_can_be_paused_and_stay_so(site: Site, live: Window) -> None:
    button = live.page.locator(".live")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Paused", "false")
    live.page.clock.run_for(60_000)
    assert updates(live) == 0
    live.open("queues")
    assert button.inner_text() == "Paused"
    live.page.clock.run_for(60_000)
    assert updates(live) == 0
    button.click()
    live.page.clock.run_for(11_000)
    assert 1 <= updates(live) <= 3


def test_a_browser_that_remembers_nothing_gets_updates(site: Site, open_window: Callable[..., Window]) -> None:
    window = signed_in(open_window, site)
    window.context.add_init_script(
        """Object.defineProperty(window, "localStorage", {get() { throw new DOMException("denied", "SecurityError"); }})"""
    )
    window.open("sessions", queue="orders")
    button = window.page.locator(".live")
    assert button.inner_text() == "Live"
    button.click()
    assert button.inner_text() == "Paused"


def test_a_page_that_is_not_seen_asks_for_nothing(site: Site, live: Window) -> None:
    live.page.evaluate(
        """Object.defineProperty(document, "hidden", {value: true, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"))"""
    )
    live.page.clock.run_for(60_000)
    assert updates(live) == 0


def test_a_user_who_is_signed_out_sees_it_and_the_updates_end(site: Site, live: Window) -> None:
    site.service.replace_keys(KEYS[1:])
    with live.page.expect_response("**live=1"):
        live.page.clock.run_for(5000)
    live.page.get_by_role("button", name="Signed out").wait_for()
    live.page.clock.run_for(120_000)
    assert updates(live) == 1


def test_updates_become_rare_while_the_gateway_does_not_answer(site: Site, live: Window) -> None:
    live.expected.append("net::ERR_FAILED")
    live.page.route("**live=1", lambda route: route.abort())
    for _ in range(60):
        live.page.clock.run_for(5000)
    assert live.page.locator(".live").inner_text() == "No connection"
    assert 4 <= updates(live) <= 9
    live.page.unroute("**live=1")
    asked = updates(live)
    while updates(live) == asked:
        live.page.clock.run_for(5000)
    live.page.get_by_role("button", name="Live").wait_for()


def test_without_a_script_there_is_no_button_for_updates(site: Site, open_window: Callable[..., Window]) -> None:
    window = signed_in(open_window, site, java_script_enabled=False)
    assert not window.page.locator(".live").is_visible()
