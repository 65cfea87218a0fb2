"""Renders the templates, and makes the answers of the Explorer with their headers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..answer import Answer
from . import shown_text

_HERE = Path(__file__).parent
#: The files that pages load. There are no others, so a path never becomes the name of a file.
STATIC_FILES: Mapping[str, str] = {
    "explorer.css": "text/css; charset=utf-8",
    "explorer.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
#: Nothing from elsewhere, no script or style inside a page, no plugins, no frames, and forms to this gateway only.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would then send "Origin: null" with forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def link(page: str, **fields: object) -> str:
    """Return the relative URL of a page. Fields that are `None` are left out.

    All pages are in one folder. Relative URLs between them stay right whatever prefix a proxy puts in front of the path.
    """
    given = {name: str(value) for name, value in fields.items() if value is not None}
    return f"{page}?{urlencode(given, errors='replace')}" if given else page


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for function in (
        shown_text.visible,
        shown_text.count,
        shown_text.size,
        shown_text.duration,
        shown_text.age,
        shown_text.left,
        shown_text.instant,
        shown_text.attribute,
        shown_text.attribute_type,
        shown_text.span,
        shown_text.sentence,
    ):
        environment.filters[function.__name__] = function
    environment.globals["link"] = link
    return environment


@cache
def static_file(name: str) -> bytes:
    """Return the contents of one of `STATIC_FILES`."""
    return (_HERE / "static" / name).read_bytes()


def render(template: str, code: int = 200, headers: Mapping[str, str] | None = None, /, **values: Any) -> Answer:
    """Return a page."""
    text = _environment().get_template(template).render(values)
    return Answer(
        code,
        {**HEADERS, "Content-Type": "text/html; charset=utf-8", **(headers or {})},
        # A lone surrogate cannot be encoded.
        text.encode("utf-8", "replace"),
    )


def static_answer(name: str) -> Answer:
    """Return the answer with a static file."""
    return Answer(200, {**HEADERS, "Content-Type": STATIC_FILES[name]}, static_file(name))


def redirect(to: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer that sends the browser to another page.

    Args:
        to: A relative URL, made with `link`.
        headers: More headers.
    """
    return Answer(303, {**HEADERS, "Location": to, **(headers or {})})
