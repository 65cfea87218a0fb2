"""Contents of messages that try to become part of the page, to garble it, or to overload it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from azsession.server.explorer.shown_text import visible

from ..server.explorer.visitor import Site
from .conftest import signed_in
from .window import Window

HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "'><svg/onload=window.pwned=1>",
    "</code></pre></textarea></title><script>window.pwned=1</script>",
    "javascript:window.pwned=1",
    '" onmouseover="window.pwned=1" autofocus onfocus="window.pwned=1',
    "{{ 7*7 }}{% raw %}${7*7}<!--",
    "&lt;b&gt;&#60;&amp;",
    "https://evil.example/<style>*{display:none}</style>",
    "\x00\x07\x1b[31m\x7f\x9b\u202egnp.exe\u2066\ufeff\r\n\t",
]
#: The characters that set the direction of text without being seen.
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


_UNTOUCHED = """() => {
  const has = (selector) => document.querySelector(selector) !== null;
  const names = [...document.querySelectorAll("*")].flatMap((one) => one.getAttributeNames());
  return window.pwned === undefined && !names.some((name) => name.startsWith("on")) && !has("style, iframe, object, embed")
    && !has('script:not([src="explorer.js"])') && !has('img:not([src="icon.svg"])') && !has('[href^="javascript" i]');
}"""


def is_untouched(window: Window) -> bool:
    """Return whether the page has nothing that came from a message."""
    return bool(window.page.evaluate(_UNTOUCHED)) and not set(window.page.inner_text("html")) & set(DIRECTIONS)


def fill(site: Site, text: str) -> None:
    """Put a text into every field of a message and of a dead letter."""
    names = ("subject", "content_type", "message_id", "correlation_id", "reply_to", "reply_to_session_id", "to")
    fields: dict[str, Any] = {**dict.fromkeys(names, text), "attributes": {printable(text): text, "bytes": text.encode()}}
    site.send("orders", text, session_id=text, **fields)
    site.dead_letter("orders", text, session_id="d" + text[:100], reason=text, **fields)


def printable(text: str) -> str:
    """Return a text without the characters that the name of an attribute cannot have."""
    return "".join(char for char in text if char >= " " and char not in "\x7f\x9b")


def test_texts_stay_text_in_lists(site: Site, window: Window) -> None:
    for text in HOSTILE:
        fill(site, text)
    for page in ("queues", "sessions", "dead-letters", "resubmit"):
        window.open(page, queue="orders")
        assert is_untouched(window), page
    assert window.open("sessions", queue="orders").locator("tbody tr").count() == len(HOSTILE)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_stays_text_wherever_it_is(site: Site, window: Window, text: str) -> None:
    fill(site, text)
    filters = {"session": "d" + text[:100], "reason": text}
    pages: list[tuple[str, dict[str, Any]]] = [
        ("queues", {"find": text}),
        ("messages", {"session": text}),
        ("purge", {"session": text}),
        ("send", {"session": text}),
        ("dead-letters", filters),
        ("dead-letter", {"number": 2}),
        ("delete", {**filters, "number": 2}),
        ("delete", filters),
        ("nowhere", {"view": text}),
        ("message", {"session": text, "number": 1, "view": text}),
    ]
    for page, query in pages:
        window.open(page, queue="orders", **query)
        assert is_untouched(window), (page, query)
    for value in (text, printable(text)):
        assert " ".join(visible(value).split()) in window.text()


@pytest.mark.parametrize("text", HOSTILE[:4], ids=range(4))
def test_a_text_stays_text_in_an_update_and_in_a_refused_form(site: Site, window: Window, text: str) -> None:
    page = window.open("send", queue="orders")
    page.get_by_label("Body").fill(text)
    page.get_by_label("Session", exact=True).fill(text)
    page.get_by_label("Subject").fill(text)
    page.get_by_label("Attributes").fill(text.replace("=", ""))
    page.get_by_role("button", name="Send").click()
    page.get_by_role("alert").wait_for()
    assert is_untouched(window)
    assert page.get_by_label("Body").input_value() == text
    assert page.get_by_label("Subject").input_value() == text
    page.clock.install()
    window.open("sessions", queue="orders")
    site.send("orders", text, session_id=text, subject=text)
    page.clock.run_for(6000)
    page.get_by_role("link", name=text, exact=True).wait_for()
    assert is_untouched(window)


def test_text_from_right_to_left_does_not_move_the_text_around_it(site: Site, window: Window) -> None:
    hebrew = "שלום 123 (a)"
    site.send("orders", hebrew, session_id=hebrew, subject=hebrew, attributes={hebrew: hebrew, "size": hebrew})
    page = window.open("message", queue="orders", session=hebrew, number=1)
    # The type is right of the value, and the value keeps its own order.
    rows = page.locator("dd:has(.type)")
    assert rows.count() == 2
    for row in rows.all():
        value, kind = row.locator("bdi").bounding_box(), row.locator(".type").bounding_box()
        assert value is not None
        assert kind is not None
        assert value["x"] + value["width"] <= kind["x"] + 1
    assert page.locator("pre.body").evaluate("(one) => getComputedStyle(one).unicodeBidi") == "plaintext"
    assert page.locator("bdi").evaluate_all("(all) => all.every((one) => getComputedStyle(one).unicodeBidi === 'isolate')")
    window.open("dead-letters", queue="orders", session=hebrew)
    chip = page.locator(".chip")
    session, remove = chip.locator("bdi").bounding_box(), chip.get_by_label("Remove the filter by session").bounding_box()
    assert session is not None
    assert remove is not None
    assert session["x"] + session["width"] <= remove["x"]


BODIES = {
    "1 MB of text": b"<b>x</b> " * 116_000,
    "1 MB of JSON": b'{"rows":[' + b'{"a":"<script>window.pwned=1</script>"},' * 26_000 + b"{}]}",
    "binary": bytes(range(256)) * 4000,
    "not UTF-8": b"abc\xff\xfe<script>window.pwned=1</script>",
    "deep JSON": b"[" * 30_000 + b"]" * 30_000,
    "NUL": b"\x00" * 1_000_000,
    "control characters": bytes(range(32)) * 1000,
    "directions": "\u202e<b>\u2067".encode() * 100_000,
    "one line": b"x" * 1_000_000,
    "line breaks": b"\n" * 1_000_000,
    "half a character": "é".encode() * 500_000 + b"\xc3",
    "one empty string": b'""',
    "blanks": b" " * 1_000_000,
    "empty": b"",
}


@pytest.fixture
def bodies(site: Site) -> Site:
    for body in BODIES.values():
        site.send("orders", body)
    return site


#: The bodies that are also looked at in another form than their own.
AS_TEXT = ("1 MB of JSON", "binary", "deep JSON")


def test_a_large_or_strange_body_is_shown_in_part(bodies: Site, open_window: Callable[..., Window]) -> None:
    window = signed_in(open_window, bodies, width=375)
    for number, (name, body) in enumerate(BODIES.items(), 1):
        for view in ("", "text") if name in AS_TEXT else ("",):
            page = window.open("message", queue="orders", session="s", number=number, view=view)
            assert is_untouched(window), name
            assert len(page.content()) < 1_700_000, name
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, name
            limit = 4096 if page.locator(".hex").count() else 65536
            assert (page.locator(".note", has_text="The first").count() == 1) == (len(body) > limit), name
    page = window.open("messages", queue="orders", session="s")
    assert page.locator("tbody tr").count() == len(BODIES)
    assert is_untouched(window)


def test_a_large_body_is_downloaded_whole(bodies: Site, window: Window) -> None:
    window.open("message", queue="orders", session="s", number=1 + list(BODIES).index("binary"))
    with window.page.expect_download() as download:
        window.press("Download")
    assert download.value.path().read_bytes() == BODIES["binary"]
