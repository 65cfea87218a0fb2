"""The values that the frame of every page needs: who is signed in, the menu, and whether only the changing part is wanted."""

from __future__ import annotations

from typing import Any

from .page_request import PageRequest
from .rights import rights_of

#: Messages that a page shows after something was done. The address of the page has only the name of the message.
DONE = {
    "sent": "The message was sent.",
    "resubmitted": "The dead letter was resubmitted. It is now the last message of its session.",
    "deleted": "The dead letter was deleted.",
    "gone": "The dead letter is not there any more. Someone else has handled it.",
    "purged": "The messages were deleted.",
}


def frame(request: PageRequest, queue: str | None = None, tab: str = "", *, is_live: bool = False) -> dict[str, Any]:
    """Return the values for the frame of a page.

    Args:
        request: The request.
        queue: The queue that the page is about.
        tab: The tab of the queue that the page belongs to.
        is_live: Whether a part of the page is updated while it is shown.
    """
    return {
        "request": request,
        "rights": rights_of(request),
        "queue": queue,
        "tab": tab,
        "is_live": is_live,
        "fragment": is_live and "live" in request.query,
        "done": DONE.get(request.query.get("done", "")),
    }
