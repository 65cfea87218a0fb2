"""The headers of all answers, and the static files."""

from __future__ import annotations

import pytest
import requests

from .visitor import Site, Visitor

PAGES = [
    "queues",
    "sessions?queue=orders",
    "messages?queue=orders&session=s",
    "nowhere",
    "sign-in",
    "explorer.css",
    "explorer.js",
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("signed_in", [True, False])
def test_every_answer_has_the_headers(site: Site, visitor: Visitor, page: str, signed_in: bool) -> None:
    site.send("orders", "x")
    answer = (visitor if signed_in else Visitor(site)).get(page)
    headers = answer.headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    if answer.status_code == 200 and not page.startswith("explorer."):
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        for forbidden in ("style=", "<style", "onclick", "onload", "javascript:", "http://", "https://"):
            assert forbidden not in answer.text, forbidden


@pytest.mark.parametrize(
    "path",
    [
        "../openapi.json",
        "..%2fopenapi.json",
        "%2e%2e/rendering.py",
        "static/explorer.css",
        "static/../rendering.py",
        "templates/page.html",
        "page.html",
        "explorer.css/",
        "explorer.css%00",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "explorer.py",
        "..\\rendering.py",
    ],
)
def test_no_path_names_another_file(site: Site, visitor: Visitor, path: str) -> None:
    request = requests.Request("GET", site.url).prepare()
    request.url = f"{site.url}/{path}"
    answer = visitor.http.send(request, allow_redirects=False, timeout=10)
    assert answer.status_code in (303, 401, 404)
    assert "def " not in answer.text
    assert "{%" not in answer.text


def test_a_static_file_needs_no_cookie_and_no_page_is_public(site: Site) -> None:
    anyone = Visitor(site)
    assert anyone.get("explorer.css").headers["Content-Type"] == "text/css; charset=utf-8"
    assert anyone.get("icon.svg").headers["Content-Type"] == "image/svg+xml"
    for page in (
        "queues",
        "sessions",
        "messages",
        "message",
        "body",
        "purge",
        "dead-letters",
        "dead-letter",
        "send",
        "delete",
    ):
        answer = anyone.get(page, {"queue": "orders"})
        assert (answer.status_code, answer.text) == (303, ""), page


def test_a_head_request_has_no_body(visitor: Visitor) -> None:
    answer = visitor.http.head(f"{visitor.url}/queues", timeout=10)
    assert (answer.status_code, answer.text) == (200, "")
    assert int(answer.headers["Content-Length"]) > 1000
