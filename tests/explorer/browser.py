"""One Chromium for the tests of a process, and a thread of its own for it.

Playwright's blocking interface keeps an event loop in the thread that uses it, so that no other test could start one there.
The tests of this folder therefore run in another thread than all others: see `conftest`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

T = TypeVar("T")

#: If this variable is set, the tests fail without Chromium instead of being skipped.
REQUIRED = "AZSESSION_REQUIRE_CHROMIUM"


def require_chromium() -> str:
    """Return the path of Chromium. Without Chromium, skip the test, or fail if the test must not be skipped."""
    found = shutil.which("chromium")
    if found is None:
        text = "needs Chromium, such as Debian's package chromium"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and this {text}", pytrace=False)
        pytest.skip(text)
    return found


class BrowserThread:
    """The thread of Chromium. It is started at the first use."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chromium")
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a function in the thread, and return its result."""
        return self._thread.submit(function, *arguments, **options).result()

    def browser(self) -> Browser:
        """Return the browser. To be called in the thread."""
        if self._browser is None:
            self._playwright = sync_playwright().start()
            # Chromium has no sandbox for root.
            flags = ["--no-sandbox"] if os.geteuid() == 0 else []
            self._browser = self._playwright.chromium.launch(
                executable_path=require_chromium(),
                args=[*flags, "--disable-dev-shm-usage", "--no-proxy-server"],
                timeout=100_000,
            )
        return self._browser

    def close(self) -> None:
        """End the browser and the thread."""

        def end() -> None:
            if self._browser is not None:
                self._browser.close()
            if self._playwright is not None:
                self._playwright.stop()

        self.call(end)
        self._thread.shutdown()
