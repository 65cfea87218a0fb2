"""The browser, a gateway for each test, and windows of users. The tests run in the thread of the browser."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from azsession.server import AccessKey

from ..server.explorer.visitor import ROOT, Site, Visitor, serving
from .browser import BrowserThread, require_chromium
from .window import Window, Windows

_threads: list[BrowserThread] = []


@pytest.fixture(scope="session")
def chromium() -> Iterator[BrowserThread]:
    require_chromium()
    thread = BrowserThread()
    _threads.append(thread)
    yield thread
    _threads.remove(thread)
    thread.close()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Run a test that uses a window in the thread of the browser."""
    if "open_window" in pyfuncitem.fixturenames and _threads:
        test = pyfuncitem.obj
        pyfuncitem.obj = lambda **arguments: _threads[0].call(test, **arguments)
    return (yield)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def open_window(chromium: BrowserThread, site: Site) -> Iterator[Callable[..., Window]]:
    """Opens windows. At the end of the test, before the gateway ends, all of them must have been free of errors."""
    windows = Windows(chromium)
    yield windows.open
    chromium.call(windows.close)
    assert windows.problems == []


@pytest.fixture
def window(chromium: BrowserThread, open_window: Callable[..., Window], site: Site) -> Window:
    """A window of a user who may do everything."""
    return chromium.call(signed_in, open_window, site)


def signed_in(open_window: Callable[..., Window], site: Site, key: AccessKey = ROOT, **options: Any) -> Window:
    """Open a window of a user who is signed in. The form for signing in has tests of its own, and takes longer."""
    window = open_window(site.url, **options)
    cookie = Visitor(site, key)
    window.context.add_cookies(
        [
            {
                "name": f"azsession-explorer-{cookie.port}",
                "value": cookie.cookie,
                "domain": "127.0.0.1",
                "path": "/explorer",
                "httpOnly": True,
                "sameSite": "Strict",
            }
        ]
    )
    return window
