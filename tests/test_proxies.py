"""The URLs of proxies: wrong ones are refused with an error that shows no part of them."""

from __future__ import annotations

import traceback

import pytest

from azsession import ConfigurationError
from azsession.proxies import check_proxy, variable_of, without_password


@pytest.mark.parametrize(
    ("proxy", "fault"),
    [
        ("http://u:hunter2@h:99999", "has no valid host and port"),
        ("http://u:hunter2", "has no valid host and port"),
        ("http://u:hunter2@bad host", "has no valid host and port"),
        ("http://u:hunter2@[::1", "has no valid host and port"),
        ("http://u:hunter2@", "has no"),
        ("http:///hunter2", "has no host"),
        ("/hunter2", "has no host"),
        ("ftp://u:hunter2@h", "does not begin with one of http://, https://, socks4://"),
        ("hunter2:x", "does not begin with one of"),
        ("hunter2:80", "does not begin with one of"),
    ],
)
def test_a_malformed_url_is_refused_without_showing_it(proxy: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^the proxy in HTTPS_PROXY {fault}.*: use a URL like http://") as caught:
        check_proxy(proxy, "HTTPS_PROXY")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("proxy", [5, b"http://h"])
def test_another_type_is_refused(proxy: object) -> None:
    with pytest.raises(ConfigurationError, match=f"^the proxy in X must be a URL, not {type(proxy).__name__}"):
        check_proxy(proxy, "X")


@pytest.mark.parametrize(
    "proxy", ["http://h", "http://h:1", "https://u:p@h:1/", "HTTP://[::1]:3128", "h", "127.0.0.1:3128", "socks5h://u:p@h:1"]
)
def test_urls_that_requests_can_use_are_accepted(proxy: str) -> None:
    check_proxy(proxy, "X")


def test_a_caller_can_demand_a_scheme() -> None:
    for proxy in ("127.0.0.1:3128", "h", "socks5://h:1"):
        with pytest.raises(ConfigurationError, match="does not begin with one of http://:"):
            check_proxy(proxy, "X", {"http"}, default="")
    check_proxy("http://h:1", "X", {"http"}, default="")


def test_the_variable_of_a_proxy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert variable_of("http://h:1", "https") is None
    monkeypatch.setenv("ALL_PROXY", "http://h:1")
    assert variable_of("http://h:1", "https") == "ALL_PROXY"
    monkeypatch.setenv("HTTPS_PROXY", "http://h:1")
    assert variable_of("http://h:1", "https") == "HTTPS_PROXY"
    assert variable_of("http://h:2", "https") is None


def test_user_and_password_are_removed() -> None:
    assert without_password("http://user:hunter2@h:1") == "http://h:1"
    assert without_password("user:hunter2@h:1") == "h:1"
    assert without_password("http://h:1") == "http://h:1"
