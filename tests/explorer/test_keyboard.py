"""The Explorer with nothing but a keyboard."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..server.explorer.visitor import ROOT, Site
from .window import Window

_FOCUSED = """() => {
  const one = document.activeElement;
  if (one === document.body) { return null; }
  const style = getComputedStyle(one);
  const box = one.getBoundingClientRect();
  const name = one.getAttribute("aria-label") || one.labels?.[0]?.innerText || one.innerText || "";
  return {
    name: name.trim(), tag: one.tagName,
    isMarked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    isVisible: box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0,
  };
}"""


def walk(window: Window, limit: int = 150) -> list[str]:
    """Press Tab until the focus leaves the page, and return the names of what had the focus."""
    names = []
    window.page.evaluate("document.activeElement.blur()")
    for _ in range(limit):
        window.page.keyboard.press("Tab")
        found = window.page.evaluate(_FOCUSED)
        if found is None:
            return names
        assert found["name"], found
        assert found["isMarked"], found
        assert found["isVisible"], found
        names.append(found["name"])
    pytest.fail(f"the focus does not leave the page: {names[-5:]}")


def tab_to(window: Window, name: str) -> None:
    """Press Tab until the focus is on what has this name."""
    for _ in range(150):
        window.page.keyboard.press("Tab")
        found = window.page.evaluate(_FOCUSED)
        if found is not None and found["name"] == name:
            return
    pytest.fail(f"the Tab key does not reach {name!r}")


def test_signing_in_resubmitting_sending_and_signing_out(site: Site, open_window: Callable[..., Window]) -> None:
    site.dead_letter("orders", "one")
    window = open_window(site.url)
    keyboard = window.page.keyboard
    window.open("queues")
    window.page.wait_for_function("document.activeElement.id === 'name'")
    keyboard.type(ROOT.name)
    tab_to(window, "Secret, or a connection string")
    keyboard.type(ROOT.key)
    keyboard.press("Enter")
    window.page.wait_for_url("**/queues")

    tab_to(window, "1 dead letters of orders")
    keyboard.press("Enter")
    window.page.wait_for_url("**/dead-letters?**")
    tab_to(window, "Resubmit… dead letter 1")
    keyboard.press("Enter")
    window.page.wait_for_url("**/resubmit?**")
    tab_to(window, "Resubmit")
    keyboard.press("Enter")
    window.page.wait_for_url("**/dead-letters?**")
    assert site.bodies("orders") == [b"one"]

    tab_to(window, "Send")
    keyboard.press("Enter")
    window.page.wait_for_url("**/send?**")
    tab_to(window, "Session")
    keyboard.type("s")
    tab_to(window, "Body")
    keyboard.type("two")
    tab_to(window, "Send")
    keyboard.press("Enter")
    window.page.wait_for_url("**/messages?**")
    assert site.bodies("orders") == [b"one", b"two"]

    tab_to(window, "Sign out")
    keyboard.press("Space")
    window.page.wait_for_url("**/sign-in?**")


def test_the_focus_goes_through_each_page_in_order_and_leaves_it(site: Site, window: Window) -> None:
    site.send("orders", '{"a": 1}', session_id="s")
    site.dead_letter("orders", "x", session_id="d", reason="red")
    start = ["Skip to the content", "azsession\nExplorer"]
    end = ["Sign out"]
    window.open("queues")
    assert walk(window) == [*start, "Live", *end, "orders", "1 dead letters of orders", "other"]
    window.open("messages", queue="orders", session="s")
    actions = ["Send to this session", "Its dead letters", "Delete messages…"]
    assert walk(window) == [*start, "Live", *end, "Queues", "orders", *actions, "Message 1"]
    window.open("message", queue="orders", session="s", number=1)
    assert walk(window) == [*start, *end, "Queues", "orders", "s", "JSON", "Text", "Hex", "Download", "Body as JSON"]
    for page in ("sessions", "dead-letters", "send", "delete"):
        window.open(page, queue="orders")
        assert walk(window)[:2] == start


def test_the_skip_link_skips_the_header(site: Site, window: Window) -> None:
    window.open("queues")
    window.page.keyboard.press("Tab")
    window.page.keyboard.press("Enter")
    window.page.keyboard.press("Tab")
    assert window.page.evaluate(_FOCUSED)["name"] == "orders"
