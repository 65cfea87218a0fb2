"""Forms: only those of the Explorer's own pages are accepted, and only if they are small."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
import requests

from azsession.server.explorer.page_request import MAX_FORM_SIZE, MAX_SIGN_IN_SIZE

from .visitor import LISTEN, Site, Visitor, csrf_of, serving

FORMS = {
    "send": ({"session_id": "s", "body": "x"}, {"queue": "orders"}),
    "purge": ({}, {"queue": "orders", "session": "s"}),
    "resubmit": ({}, {"queue": "orders"}),
    "delete": ({}, {"queue": "orders"}),
    "sign-out": ({}, {}),
}


@pytest.fixture
def filled(site: Site) -> Site:
    site.send("orders", "kept")
    site.dead_letter("orders", "kept too", session_id="d")
    return site


def unchanged(site: Site) -> bool:
    return site.bodies("orders") == [b"kept"] and site.dead("orders") == [b"kept too"]


@pytest.mark.parametrize("page", FORMS)
@pytest.mark.parametrize("token", ["", "x" * 43, "é"])
def test_a_form_without_the_right_token_does_nothing(filled: Site, visitor: Visitor, page: str, token: str) -> None:
    form, query = FORMS[page]
    answer = visitor.post(page, form, query, csrf=token)
    assert answer.status_code == 403
    assert "The form was refused" in answer.text
    assert unchanged(filled)
    assert visitor.get("queues").status_code == 200


@pytest.mark.parametrize("page", FORMS)
def test_the_token_of_another_user_does_nothing(filled: Site, visitor: Visitor, page: str) -> None:
    form, query = FORMS[page]
    assert visitor.post(page, form, query, csrf=Visitor(filled, LISTEN).csrf()).status_code == 403
    assert unchanged(filled)


@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
def test_a_form_of_another_site_does_nothing_even_with_the_token(filled: Site, visitor: Visitor, origin: str) -> None:
    form, query = FORMS["delete"]
    assert visitor.post("delete", form, query, headers={"Sec-Fetch-Site": origin}).status_code == 403
    assert unchanged(filled)


@pytest.mark.parametrize("page", FORMS)
def test_a_form_without_a_cookie_leads_to_signing_in(filled: Site, page: str) -> None:
    form, query = FORMS[page]
    answer = Visitor(filled).post(page, form, query, csrf="x")
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("sign-in?to=")
    assert unchanged(filled)


@pytest.mark.parametrize("page", FORMS)
def test_looking_at_a_page_changes_nothing(filled: Site, visitor: Visitor, page: str) -> None:
    form, query = FORMS[page]
    fields = {**query, **form, "csrf": visitor.csrf()}
    for method in ("GET", "HEAD"):
        visitor.http.request(method, f"{visitor.url}/{page}", params=fields, allow_redirects=False, timeout=10)
    assert unchanged(filled)
    assert visitor.get("queues").status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_do_nothing(filled: Site, visitor: Visitor, method: str) -> None:
    answer = visitor.http.request(method, f"{visitor.url}/delete", params=FORMS["delete"][1], timeout=10)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    assert unchanged(filled)


def test_a_huge_form_is_refused(filled: Site, visitor: Visitor) -> None:
    answer = visitor.post("send", {"session_id": "s", "body": "x" * (MAX_FORM_SIZE + 1)}, {"queue": "orders"})
    assert answer.status_code == 413
    assert "Too large" in answer.text
    assert "azsession send" in answer.text
    assert unchanged(filled)


def test_a_form_of_someone_who_is_not_signed_in_is_small_or_not_read(filled: Site) -> None:
    anyone = Visitor(filled)
    large = {"name": "root", "secret": "x" * MAX_SIGN_IN_SIZE}
    assert anyone.post("sign-in", large, csrf=csrf_of(anyone.get("sign-in"))).status_code == 413
    # Neither the type nor the fields of this form are looked at.
    answer = anyone.http.post(f"{anyone.url}/send?queue=orders", b"\xff" * 400_000, allow_redirects=False, timeout=10)
    assert answer.status_code == 303


def test_a_form_that_announces_more_is_refused_before_it_comes(filled: Site) -> None:
    parts = urlsplit(filled.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10) as sock:
        head = f"POST /explorer/sign-in HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 999999999\r\n"
        sock.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("&".join(f"a{number}=1" for number in range(100)), "application/x-www-form-urlencoded"),
        ("csrf=a&csrf=b", "application/x-www-form-urlencoded"),
        ("a=%ff", "application/x-www-form-urlencoded"),
        ("{}", "application/json"),
        ("--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
        ("a=b", "text/plain"),
        ("a=b", ""),
    ],
)
def test_a_malformed_form_is_refused(filled: Site, visitor: Visitor, body: str, kind: str) -> None:
    answer = visitor.http.post(
        f"{visitor.url}/send?queue=orders", body, headers={"Content-Type": kind}, allow_redirects=False, timeout=10
    )
    assert answer.status_code == 400
    assert unchanged(filled)


@pytest.mark.parametrize("query", ["queue=orders&queue=other", "queue=%ff", "queue=..", "queue=", "queue=a%0d%0ab", "x"])
def test_a_malformed_query_is_refused(visitor: Visitor, query: str) -> None:
    answer = visitor.get(f"sessions?{query}")
    assert answer.status_code == 400
    assert "This cannot be used" in answer.text


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "99999999999999999999", "9223372036854775808", "1e3", "１"])
def test_a_malformed_number_is_refused(visitor: Visitor, number: str) -> None:
    assert visitor.get("messages", {"queue": "orders", "session": "s", "start": number}).status_code == 400


def test_the_limit_of_a_form_does_not_depend_on_the_limit_of_messages() -> None:
    with serving(max_message_size=1000) as site:
        visitor = Visitor(site, LISTEN)
        root = Visitor(site)
        assert root.sign_in("root", site.service.connection_string()).status_code == 303
        answer = root.post("send", {"session_id": "s", "body": "x" * 1001}, {"queue": "orders"})
        assert answer.status_code == 400
        assert "1001 bytes" in answer.text
        assert root.post("send", {"session_id": "s", "body": "x" * 1000}, {"queue": "orders"}).status_code == 303
        assert requests.get(f"{visitor.url}/sign-in", timeout=10).status_code == 200
