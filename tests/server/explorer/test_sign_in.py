"""Signing in and out: cookies, guesses, forms of other sites, and where the browser is sent."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
import requests
import trustme

from azsession.server import AccessKey, GatewayService
from azsession.server.explorer import sign_in
from azsession.server.explorer.throttle import Throttle

from .visitor import KEYS, LISTEN, ROOT, Site, Visitor, csrf_of, serving


def test_a_key_signs_in(site: Site) -> None:
    visitor = Visitor(site)
    assert visitor.get("queues").headers["Location"] == "sign-in?to=queues"
    answer = visitor.sign_in(ROOT.name, ROOT.key)
    assert (answer.status_code, answer.headers["Location"]) == (303, "queues")
    assert visitor.get("queues").status_code == 200


def test_the_root_leads_to_the_queues_also_with_a_slash_and_below_a_prefix(site: Site) -> None:
    for address in (site.url, f"{site.url}/"):
        answer = requests.get(address, allow_redirects=False, timeout=10)
        assert urljoin(address, answer.headers["Location"]) == f"{site.url}/queues"


def test_a_connection_string_signs_in(site: Site) -> None:
    string = site.service.connection_string(LISTEN)
    assert Visitor(site).sign_in("", string).status_code == 303
    assert Visitor(site).sign_in("", string.replace("SharedAccessKey=", "SharedAccessKey=x")).status_code == 403


@pytest.mark.parametrize(
    ("name", "secret"),
    [("root", "wrong"), ("root", ""), ("nobody", ROOT.key), ("", ""), ("looker", ROOT.key), ("root", "é" * 5000)],
)
def test_a_wrong_key_is_refused_without_a_cookie_and_without_the_secret(site: Site, name: str, secret: str) -> None:
    visitor = Visitor(site)
    answer = visitor.sign_in(name, secret)
    assert answer.status_code == 403
    assert "No key has this name and this secret" in answer.text
    assert "azsession-explorer" not in answer.headers["Set-Cookie"]
    assert not secret or secret not in answer.text
    assert visitor.get("queues").status_code == 303


def test_guesses_are_bounded_and_a_right_key_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock stands still: the allowance does not fill up again meanwhile.
    monkeypatch.setattr(sign_in, "Throttle", lambda: Throttle(lambda: 1000.0))
    with serving() as site:
        visitor = Visitor(site)
        codes = [visitor.sign_in("root", f"guess {number}").status_code for number in range(12)]
        assert codes == [403] * 10 + [429] * 2
        answer = visitor.sign_in(ROOT.name, ROOT.key)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["Retry-After"]) <= 6


def cookies_of(answer: requests.Response) -> SimpleCookie:
    return SimpleCookie(answer.headers["Set-Cookie"])


def test_the_cookie_is_for_the_explorer_alone(site: Site) -> None:
    visitor = Visitor(site)
    cookie = cookies_of(visitor.sign_in(ROOT.name, ROOT.key))[f"azsession-explorer-{visitor.port}"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["max-age"] == "28800"
    assert not cookie["secure"]  # The page came over plain HTTP.
    assert not cookie["domain"]
    # Without a path, browsers use the folder of the page.
    assert not cookie["path"]
    assert [found.path for found in visitor.http.cookies if found.name.startswith("azsession-explorer")] == ["/explorer"]


@pytest.mark.parametrize(
    ("value", "is_secure"), [("https", True), ("HTTPS, http", True), ("http, https", False), ("", False)]
)
def test_the_cookie_is_secure_behind_a_proxy_that_ends_tls(site: Site, value: str, is_secure: bool) -> None:
    page = Visitor(site).get("sign-in", headers={"X-Forwarded-Proto": value})
    assert bool(cookies_of(page)[f"azsession-sign-in-{Visitor(site).port}"]["secure"]) is is_secure


def test_the_cookie_is_secure_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem")) as site:
        visitor = Visitor(site)
        visitor.http.verify = str(tmp_path / "ca.pem")
        answer = visitor.sign_in(ROOT.name, ROOT.key)
        assert cookies_of(answer)[f"azsession-explorer-{visitor.port}"]["secure"]
        assert visitor.get("queues").status_code == 200


def test_each_sign_in_has_another_cookie_and_a_cookie_from_before_is_never_kept(site: Site) -> None:
    visitor = Visitor(site)
    planted = Visitor(site, ROOT).cookie
    visitor.http.cookies.set(f"azsession-explorer-{visitor.port}", planted, domain="127.0.0.1", path="/explorer")
    visitor.sign_in(LISTEN.name, LISTEN.key)
    assert visitor.cookie not in ("", planted)
    assert LISTEN.name in visitor.get("queues").text


def with_cookie(site: Site, text: str) -> requests.Response:
    """Ask for a page with a cookie that was made by hand."""
    name = f"azsession-explorer-{Visitor(site).port}"
    headers = {"Cookie": f"{name}={text.encode().decode('latin-1')}"}
    return requests.get(f"{site.url}/queues", headers=headers, allow_redirects=False, timeout=10)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text + "A",
        lambda text: "x" + text,
        lambda text: text.replace(".", "..", 1),
        lambda text: "." * 3,
        lambda text: "é" * 300,
        lambda text: "",
    ],
)
def test_a_changed_cookie_signs_nobody_in(site: Site, visitor: Visitor, change: Callable[[str], str]) -> None:
    assert with_cookie(site, visitor.cookie).status_code == 200
    assert with_cookie(site, change(visitor.cookie)).status_code == 303


def test_a_cookie_does_not_name_another_key(site: Site, visitor: Visitor) -> None:
    # The name is signed with the secret of its own key, so the parts of two cookies cannot be combined.
    _, *rest = Visitor(site, LISTEN).cookie.split(".")
    assert with_cookie(site, ".".join([visitor.cookie.split(".")[0], *rest])).status_code == 303


def test_the_cookie_stops_working_when_its_key_is_revoked_or_changes(site: Site) -> None:
    visitor = Visitor(site, LISTEN)
    others = [key for key in KEYS if key is not LISTEN]
    site.service.replace_keys(others)
    assert visitor.get("queues").status_code == 303
    site.service.replace_keys([*others, AccessKey(LISTEN.name, "b3RoZXI=", LISTEN.rights)])
    assert visitor.get("queues").status_code == 303
    site.service.replace_keys([*others, LISTEN])
    assert visitor.get("queues").status_code == 200


def test_a_key_that_lost_a_right_loses_it_at_once(site: Site) -> None:
    visitor = Visitor(site, LISTEN)
    assert visitor.get("sessions", {"queue": "orders"}).status_code == 200
    site.service.replace_keys([*KEYS[:1], AccessKey(LISTEN.name, LISTEN.key, KEYS[2].rights)])
    assert visitor.get("sessions", {"queue": "orders"}).status_code == 403


def test_a_cookie_works_at_another_gateway_with_the_same_keys(site: Site, visitor: Visitor) -> None:
    with serving() as other:
        assert with_cookie(other, visitor.cookie).status_code == 200


def test_signing_out_ends_the_cookie_everywhere(site: Site, visitor: Visitor) -> None:
    stolen = visitor.cookie
    answer = visitor.post("sign-out")
    assert (answer.status_code, answer.headers["Location"]) == (303, "sign-in?done=signed-out")
    assert cookies_of(answer)[f"azsession-explorer-{visitor.port}"]["max-age"] == "0"
    assert visitor.get("queues").status_code == 303
    assert with_cookie(site, stolen).status_code == 303


def test_signing_in_needs_the_token_of_the_form(site: Site) -> None:
    visitor = Visitor(site)
    form = {"name": ROOT.name, "secret": ROOT.key}
    # A form of another site has no cookie, or cannot know the one that the browser sends.
    assert requests.post(f"{site.url}/sign-in", {**form, "csrf": ""}, timeout=10).status_code == 403
    token = csrf_of(visitor.get("sign-in"))
    assert visitor.post("sign-in", form, csrf="x" * 32).status_code == 403
    assert visitor.post("sign-in", form, csrf="").status_code == 403
    assert visitor.post("sign-in", form, csrf="é" * 32).status_code == 403
    assert visitor.post("sign-in", form, csrf=token).status_code == 303


def test_the_page_that_was_asked_for_comes_after_signing_in(site: Site) -> None:
    visitor = Visitor(site)
    wanted = "messages?queue=orders&session=a%2Fb+c"
    location = urlsplit(visitor.get(wanted).headers["Location"])
    (to,) = parse_qs(location.query)["to"]
    answer = visitor.sign_in(ROOT.name, ROOT.key, to)
    assert answer.headers["Location"] == wanted


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "\\\\evil.example",
        "queues?a=b\r\nX-Injected: 1",
        "queues?a=b\nSet-Cookie: x=y",
        "../admin",
        "queues/../../admin",
        "sign-out",
        "sign-in",
        "queues?\u2028",
        "",
        "queues?" + "é",
        "nowhere",
    ],
)
def test_signing_in_leads_to_no_other_place(site: Site, to: str) -> None:
    answer = Visitor(site).sign_in(ROOT.name, ROOT.key, to)
    assert answer.headers["Location"] == "queues"
    assert "X-Injected" not in answer.headers
    assert "x=y" not in answer.headers["Set-Cookie"]


def test_two_gateways_of_one_host_do_not_share_a_cookie(site: Site, visitor: Visitor) -> None:
    # Browsers send the cookies of a host to all its ports.
    with serving() as other:
        second = Visitor(other)
        second.http = visitor.http
        second.sign_in(LISTEN.name, LISTEN.key)
        assert ROOT.name in visitor.get("queues").text
        assert LISTEN.name in second.get("queues").text


def test_the_service_can_be_without_an_explorer() -> None:
    with serving(explorer=False) as site:
        answer = requests.get(f"{site.url}/queues", timeout=10)
        assert answer.status_code == 401
        assert "WWW-Authenticate" in answer.headers
        assert isinstance(site.service, GatewayService)
