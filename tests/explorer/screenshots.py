"""Draws the pictures of the documentation: the Explorer with real webhooks, and the demo in a terminal.

``python -m tests.explorer.screenshots`` writes them to `docs/images`. It needs Chromium.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.text import Text

from azsession import Message
from azsession.broker.calls import Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import GatewayService

from ..conftest import WEBHOOKS
from ..server.explorer.visitor import ROOT, Site
from ..server.raw import SteppedClock
from ..support.paths import ROOT as REPOSITORY
from .browser import require_chromium

IMAGES = REPOSITORY / "docs" / "images"
#: The queue of an event, by the first part of the event's name. Other events are in `github/repositories`.
QUEUES = {
    "issue": "github/issues",
    "label": "github/issues",
    "milestone": "github/issues",
    "pull": "github/pull-requests",
    "check": "github/checks",
    "workflow": "github/checks",
    "status": "github/checks",
    "security": "github/security",
    "dependabot": "github/security",
    "code": "github/security",
}
OTHERS = "github/repositories"
#: Sessions that consumers hold, dead letters, and deferred messages of the pictures.
HOLDERS = ("worker-1:4711, key consumers", "worker-2:4711, key consumers", "worker-2:4711, key consumers")
REASONS = (
    ("SchemaMismatch", "The field 'repository.owner' is missing."),
    ("MaxDeliveryCountExceeded", "The message was delivered 10 times."),
    ("Forbidden", "The installation has no access to this repository (403)."),
)


def read_webhooks() -> Iterator[tuple[str, Message]]:
    """Yield the webhooks as messages, with their queues."""
    for line in WEBHOOKS.read_text(encoding="utf-8").splitlines():
        hook = json.loads(line)
        subject = ".".join(filter(None, (hook["event"], hook["action"])))
        message = Message(
            json.dumps(hook["payload"]),
            session_id=hook["session_id"],
            subject=subject,
            content_type="application/json",
            attributes={"event": hook["event"], "position": hook["position"], "retried": False},
        )
        yield QUEUES.get(hook["event"].split("_")[0], OTHERS), message


def hold(broker: EmbeddedBroker, queue: str, session_id: str, client: str, count: int = 1) -> tuple[str, list[str]]:
    """Receive messages of a session. Return the holder, and the lock tokens."""
    holder = str(uuid.uuid4())
    wanted = ReceiveRequest(queue, session_id, holder, max_count=count, timeout=0, client=client)
    return holder, [one.receipt.handle for one in broker.receive(wanted).result().messages]


def fill(broker: EmbeddedBroker, clock: SteppedClock) -> None:
    """Send the webhooks within the last hours, and let consumers work on them."""
    hooks = list(read_webhooks())
    for queue in sorted({queue for queue, _ in hooks}):
        broker.create_queue(queue, QueueSettings(lock_duration=300)).result()
    clock.forward(-7800)
    for queue, message in hooks:
        broker.send(queue, [message]).result()
        clock.forward(23)
    clock.forward(7800 - 23 * len(hooks))
    later = datetime.now(timezone.utc) + timedelta(hours=2)
    for queue, message in hooks[5:40:9]:
        broker.schedule(queue, [Message(b"{}", session_id=message.session_id, scheduled_enqueue_time=later)]).result()
    for queue in sorted({queue for queue, _ in hooks}):
        sizes = Counter(message.session_id or "" for name, message in hooks if name == queue)
        rejected = [session_id for session_id in sizes if len(session_id) < 60][1::3][:4] if queue != "github/checks" else []
        for number, session_id in enumerate(rejected):
            holder, tokens = hold(broker, queue, session_id, "")
            reason, description = REASONS[number % len(REASONS)]
            settlements = [Settlement(token, Disposition.DEAD_LETTER, reason, description) for token in tokens]
            broker.settle(queue, session_id, settlements).result()
            broker.release(queue, session_id, holder).result()
        large = [session_id for session_id, size in sizes.items() if size > 2 and session_id not in rejected]
        for session_id, client in zip(large, HOLDERS, strict=False):
            holder, tokens = hold(broker, queue, session_id, client, 2)
            broker.set_state(queue, session_id, holder, b"{}").result()
            broker.settle(queue, session_id, [Settlement(tokens[0], Disposition.DEFER)]).result()


@contextmanager
def site() -> Iterator[Site]:
    """Serve the Explorer with the webhooks."""
    clock = SteppedClock()
    broker = EmbeddedBroker(clock=clock)
    fill(broker, clock)
    with GatewayService(broker, [ROOT]) as service:
        yield Site(service, broker)


#: The pages of the pictures. The session is one with several messages.
SESSION = "Codertocat/Hello-World/pull_request/2"
PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "queues": ("queues", {}),
    "sessions": ("sessions", {"queue": OTHERS}),
    "messages": ("messages", {"queue": "github/pull-requests", "session": SESSION}),
    "message": ("messages", {"queue": "github/pull-requests", "session": SESSION}),
    "dead-letters": ("dead-letters", {"queue": OTHERS}),
    "send": ("send", {"queue": "github/issues", "session": "Codertocat/Hello-World/issues/1"}),
    "sign-in": ("sign-in", {}),
}


class Camera:
    """Takes pictures of pages.

    Args:
        browser: Chromium.
        served: The Explorer.
    """

    def __init__(self, browser: Browser, served: Site) -> None:
        self._browser = browser
        self._url = served.url

    def take(self, name: str, width: int, scheme: str, height: int = 0) -> Image.Image:
        """Return a picture of a page."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height or (760 if width > 500 else 720)},
            color_scheme="dark" if scheme == "dark" else "light",
            device_scale_factor=2,
            reduced_motion="reduce",
        )
        page = context.new_page()
        if name != "sign-in":
            self._sign_in(page)
        address, query = PAGES[name]
        page.goto(f"{self._url}/{address}?{'&'.join(f'{key}={value}' for key, value in query.items())}")
        if name == "message":
            page.locator(".list tbody th a").first.click()
        if name == "send":
            page.get_by_label("Body").fill('{\n  "action": "reopened",\n  "issue": {"number": 1}\n}')
            page.get_by_label("Subject").fill("issues.reopened")
            page.get_by_label("Content type").fill("application/json")
        picture = Image.open(io.BytesIO(page.screenshot()))
        context.close()
        return picture.convert("RGB")

    def _sign_in(self, page: Page) -> None:
        page.goto(f"{self._url}/sign-in")
        page.fill("#name", ROOT.name)
        page.fill("#secret", ROOT.key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/queues")


def beside(pictures: Sequence[Image.Image], gap: int = 48) -> Image.Image:
    """Return pictures side by side, on a grey ground."""
    width = sum(one.width for one in pictures) + gap * (len(pictures) + 1)
    whole = Image.new("RGB", (width, max(one.height for one in pictures) + 2 * gap), "#8d96a3")
    left = gap
    for one in pictures:
        whole.paste(one, (left, gap))
        left += one.width + gap
    return whole


def save(picture: Image.Image, name: str, width: int) -> None:
    """Write a picture, made smaller to a width in pixels."""
    height = round(picture.height * width / picture.width)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    path = IMAGES / f"{name}.webp"
    small.save(path, "WEBP", quality=82, method=6)
    print(f"{path.relative_to(REPOSITORY)}: {width} x {height}, {path.stat().st_size // 1000} KB")


def draw_demo() -> None:
    """Write a picture of the result of ``azsession demo`` in a terminal."""
    environment = {**os.environ, "COLUMNS": "94", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "azsession", "demo", "--seed", "7"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    # The live view is drawn in between, and removed at its end.
    first, result = output.partition("\n")[0], output.rpartition("\x1b[?25h")[2]
    table = re.sub(r"\r|\x1b\[[0-9;?]*[A-HJKSTfhlsu]", "", result).strip()
    lines = f"$ azsession demo\n{first}\n\n{table}"
    console = Console(record=True, width=94, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text.from_ansi(lines))
    # Without the fonts that rich would load from another host.
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="azsession demo"), flags=re.DOTALL)
    path = IMAGES / "demo.svg"
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n", encoding="utf-8")
    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size // 1000} KB")


def main(folder: str | None = None) -> None:
    """Draw the pictures of the documentation, or all pages in all sizes into a folder."""
    IMAGES.mkdir(exist_ok=True)
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with site() as served, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_chromium(), args=[*flags, "--no-proxy-server"])
        camera = Camera(browser, served)
        if folder is not None:
            for name in PAGES:
                for scheme in ("light", "dark"):
                    beside([camera.take(name, 1280, scheme), camera.take(name, 375, scheme)]).save(
                        f"{folder}/{name}-{scheme}.png"
                    )
            return
        save(camera.take("sessions", 1280, "light", 700), "explorer-sessions", 1400)
        save(camera.take("queues", 1280, "dark", 480), "explorer-queues", 1200)
        save(camera.take("message", 1280, "light"), "explorer-message", 1200)
        save(camera.take("dead-letters", 1280, "light"), "explorer-dead-letters", 1200)
        phones = [("sessions", "light"), ("dead-letters", "light"), ("message", "dark"), ("send", "dark")]
        save(beside([camera.take(name, 375, scheme) for name, scheme in phones]), "explorer-phone", 1400)
        browser.close()
    draw_demo()


if __name__ == "__main__":
    main(*sys.argv[1:])
