"""A window of Chromium that notes everything that must not happen, for example violations of the Content-Security-Policy."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode, urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

from azsession.server import AccessKey

from .browser import BrowserThread

#: Reports violations in the console, also those of pages whose own scripts are blocked.
_WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""


class Window:
    """A window with cookies of its own.

    Args:
        url: The address of the Explorer.
        context: The window's cookies and settings.
        problems: Gets a line for each thing that must not happen.
    """

    def __init__(self, url: str, context: BrowserContext, problems: list[str]) -> None:
        self.url = url
        self.context = context
        self.problems = problems
        #: Problems that the test expects.
        self.expected: list[str] = []
        #: The addresses that were loaded.
        self.loaded: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self._note(f"script: {error}"))
        self.page.on("dialog", lambda dialog: (self._note(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._on_request)

    def open(self, page: str, **query: Any) -> Page:
        """Open a page of the Explorer."""
        self.page.goto(f"{self.url}/{page}{'?' if query else ''}{urlencode(query)}")
        return self.page

    def sign_in(self, key: AccessKey) -> None:
        """Sign in as a user does."""
        self.open("sign-in")
        self.page.fill("#name", key.name)
        self.page.fill("#secret", key.key)
        self.press("Sign in")
        self.page.wait_for_url("**/queues")

    def press(self, name: str) -> None:
        """Press the button or follow the link with this name."""
        self.page.get_by_role("button", name=name, exact=True).or_(
            self.page.get_by_role("link", name=name, exact=True)
        ).click()

    def text(self) -> str:
        """Return the text that can be seen on the page, with single spaces."""
        return " ".join(self.page.inner_text("body").split())

    def _note(self, problem: str) -> None:
        if not any(part in problem for part in self.expected):
            self.problems.append(problem)

    def _on_console(self, message: ConsoleMessage) -> None:
        # A page with an error's status is an error in the console, too.
        if message.type in ("error", "warning") and "the server responded with a status of 4" not in message.text:
            self._note(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        self.loaded.append(request.url)
        if urlsplit(request.url)[:2] != urlsplit(self.url)[:2]:
            self._note(f"asset: {request.url}")


class Windows:
    """The windows of a test.

    Args:
        thread: The thread of the browser.
    """

    def __init__(self, thread: BrowserThread) -> None:
        self._thread = thread
        self._contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    def open(self, url: str, *, width: int = 1280, height: int = 800, **options: Any) -> Window:
        """Open a window. To be called in the thread of the browser.

        Args:
            url: The address of the Explorer.
            width: Its width in CSS pixels.
            height: Its height.
            options: Other options of Playwright's `new_context`.
        """
        size = {"width": width, "height": height}
        context = self._thread.browser().new_context(viewport=size, reduced_motion="reduce", **options)
        context.set_default_timeout(60_000)
        if options.get("java_script_enabled", True):
            context.add_init_script(_WATCH)
        self._contexts.append(context)
        return Window(url, context, self.problems)

    def close(self) -> None:
        """Close all windows. To be called in the thread of the browser."""
        for context in self._contexts:
            context.close()
