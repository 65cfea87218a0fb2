"""Phones, long names, dark mode, and what screen readers are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from azsession.broker.calls import AcceptRequest
from azsession.queues import QueueSettings

from ..server.explorer.visitor import LOCK, Site
from .conftest import signed_in
from .window import Window

LONG = "q" * 260


def fill(site: Site, queue: str, *, session_id: str, text: str) -> Site:
    """Put messages and dead letters of two sessions into a queue, one of them with long texts."""
    fields: dict[str, Any] = {"subject": text, "attributes": {text[:128]: text, "empty": "", "priority": 1}}
    site.send(queue, f'{{"a": "{text}"}}', session_id="s" + session_id, **fields)
    site.send(queue, '{"paid": [1, true, null, "x"]}', session_id="short", subject="paid", message_id="m" * 36)
    site.dead_letter(queue, text, session_id="d" + session_id, reason=text, **fields)
    site.dead_letter(queue, "z", session_id="d", reason="refused")
    site.broker.accept(AcceptRequest(queue, "short", LOCK, timeout=0, client="worker-7:4711, key app")).result()
    return site


@pytest.fixture
def filled(site: Site) -> Site:
    """A queue with a long name, and messages with long texts."""
    site.broker.create_queue(LONG, QueueSettings()).result()
    return fill(site, LONG, session_id="e" * 127, text="x" * 4096)


@pytest.fixture
def small(site: Site) -> Site:
    """A queue with short names and texts."""
    return fill(site, "orders", session_id="-1", text="order is late")


def pages(queue: str, session_id: str, reason: str) -> list[tuple[str, dict[str, Any]]]:
    """Return one page of each kind."""
    return [
        ("queues", {}),
        ("queues", {"find": "nothing of this name"}),
        ("sessions", {"queue": queue}),
        ("sessions", {"queue": "other"}),
        ("messages", {"queue": queue, "session": "s" + session_id}),
        ("message", {"queue": queue, "session": "s" + session_id, "number": 1}),
        ("message", {"queue": queue, "session": "short", "number": 2, "view": "hex"}),
        ("dead-letters", {"queue": queue}),
        ("dead-letters", {"queue": queue, "session": "d" + session_id, "reason": reason}),
        ("dead-letter", {"queue": queue, "number": 3}),
        ("resubmit", {"queue": queue, "number": 3}),
        ("delete", {"queue": queue, "session": "d" + session_id}),
        ("purge", {"queue": queue, "session": "s" + session_id}),
        ("send", {"queue": queue}),
        ("nowhere", {}),
        ("sign-in", {}),
    ]


def test_no_page_scrolls_sideways(filled: Site, open_window: Callable[..., Window]) -> None:
    window = signed_in(open_window, filled)
    for page, query in pages(LONG, "e" * 127, "x" * 200):
        window.open(page, **query)
        for width in (1280, 768, 375, 320):
            window.page.set_viewport_size({"width": width, "height": 700})
            assert window.page.evaluate("document.documentElement.scrollWidth") <= width, (page, query)


_SMALL = """() => [...document.querySelectorAll("button, .button, .tabs a, .switch a, input:not([type=hidden])")]
  .map((one) => [one.innerText || one.name, one.getBoundingClientRect()])
  .filter(([, box]) => box.width > 0 && (box.height < 32 || box.width < 32)).map(([name]) => name)"""


def test_the_rules_of_accessibility_are_kept(small: Site, open_window: Callable[..., Window]) -> None:
    window = signed_in(open_window, small, has_touch=True)
    axe = Axe()

    def check(what: object, *rules: str) -> None:
        results = axe.run(window.page, options={"runOnly": list(rules)})
        found = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in results.response["violations"]]
        assert found == [], what

    for page, query in pages("orders", "-1", "order is late"):
        window.page.emulate_media(color_scheme="light")
        window.page.set_viewport_size({"width": 1280, "height": 800})
        window.open(page, **query)
        check((page, query), "wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice")
        window.page.emulate_media(color_scheme="dark")
        window.page.set_viewport_size({"width": 375, "height": 800})
        check((page, query, "dark"), "color-contrast", "target-size")
        assert window.page.evaluate(_SMALL) == [], page


def test_dark_pages_are_dark(site: Site, open_window: Callable[..., Window]) -> None:
    for scheme, expected in (("light", (246, 247, 249)), ("dark", (15, 19, 25))):
        window = signed_in(open_window, site, color_scheme=scheme)
        window.open("queues")
        colour = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == f"rgb{expected}"


def test_every_page_has_a_title_of_its_own_and_one_heading(small: Site, window: Window) -> None:
    titles = set()
    for page, query in pages("orders", "-1", "order is late"):
        window.open(page, **query)
        titles.add(window.page.title())
        assert window.page.locator("h1").count() == 1, page
        assert window.page.locator("html").get_attribute("lang") == "en"
    assert len(titles) >= 12
