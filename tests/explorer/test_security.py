"""Cookies, frames and forms of other sites, as a real browser treats them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from ..server.explorer.visitor import ROOT, Site, serving
from .window import Window


@pytest.fixture
def other_site() -> Iterator[Callable[[str], str]]:
    """Serves a page of another site, and returns its address."""
    html = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def serve(text: str) -> str:
        nonlocal html
        html = text.encode()
        return f"http://localhost:{server.server_port}/"

    yield serve
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_cookie_is_hidden_from_scripts_and_other_paths(site: Site, open_window: Callable[..., Window]) -> None:
    window = open_window(site.url)
    window.sign_in(ROOT)
    assert window.page.evaluate("document.cookie") == ""
    cookies = {cookie["name"]: cookie for cookie in window.context.cookies()}
    port = site.service.url.rpartition(":")[2]
    assert set(cookies) == {f"azsession-explorer-{port}", f"azsession-sign-in-{port}"}
    for cookie in cookies.values():
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/explorer")
        assert cookie["domain"] == "127.0.0.1"


def test_the_cookie_goes_over_https_only(open_window: Callable[..., Window], tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    with serving(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as site:
        window = open_window(site.url, ignore_https_errors=True)
        window.sign_in(ROOT)
        assert [cookie["secure"] for cookie in window.context.cookies()] == [True, True]
        window.open("queues")
        assert "orders" in window.text()
        window.context.close()


def test_a_form_of_another_site_changes_nothing(site: Site, window: Window, other_site: Callable[[str], str]) -> None:
    site.dead_letter("orders", "kept")
    action = f"{site.url}/delete?queue=orders"
    form = f'<form method="post" action="{action}"><input name="csrf" value="x"></form>'
    address = other_site(f"{form}<script>document.forms[0].submit()</script>")
    window.expected.append("asset:")
    window.page.goto(address)
    window.page.wait_for_url("**/sign-in?**")  # The browser sends no cookie.
    assert site.dead("orders") == [b"kept"]
    window.open("queues")
    assert "orders" in window.text()


def test_another_site_cannot_show_a_page_in_a_frame_or_read_it(
    site: Site, window: Window, other_site: Callable[[str], str]
) -> None:
    window.expected += ["asset:", "frame-ancestors", "X-Frame-Options", "CORS policy", "net::ERR_FAILED", "net::ERR_BLOCKED"]
    window.expected += ["Refused to", "Framing", "CSP:"]
    window.page.goto(other_site(f'<iframe src="{site.url}/sign-in"></iframe><p id="read">waiting</p>'))
    frame = window.page.frames[-1]
    assert "Sign in" not in frame.content()
    read = f"fetch('{site.url}/sign-in').then(() => 'read', () => 'refused')"
    assert window.page.evaluate(read) == "refused"


def test_a_link_of_another_site_shows_the_page_for_signing_in(
    site: Site, window: Window, other_site: Callable[[str], str]
) -> None:
    window.expected.append("asset:")
    window.page.goto(other_site(f'<a href="{site.url}/queues">queues</a>'))
    window.page.get_by_role("link").click()
    window.page.wait_for_url("**/sign-in?to=queues")


def test_a_script_in_a_page_would_not_run(site: Site, window: Window) -> None:
    # Nothing puts one there; this is the second line of defence.
    window.expected += ["CSP:", "Content Security Policy", "asset: https://evil.example"]
    window.open("queues")
    window.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.pwned = 1";
          document.body.append(script);
          const html = '<img src="x" onerror="window.pwned = 2"><b style="color: red">x</b>';
          document.body.insertAdjacentHTML("beforeend", html);
          const other = document.createElement("img");
          other.src = "https://evil.example/x.png";
          document.body.append(other);
        }"""
    )
    window.page.wait_for_timeout(200)
    assert window.page.evaluate("window.pwned") is None
    assert window.page.evaluate("getComputedStyle(document.querySelector('b[style]')).color") != "rgb(255, 0, 0)"


def test_the_policy_allows_what_the_pages_need(site: Site, window: Window) -> None:
    # The style and the script are loaded, so that their absence is noticed.
    window.open("queues")
    assert window.page.evaluate("getComputedStyle(document.querySelector('.top')).display") == "flex"
    assert window.page.evaluate("document.documentElement.classList.contains('js')")
    assert {address.rpartition("/")[2].partition("?")[0] for address in window.loaded} >= {"explorer.css", "explorer.js"}
