"""`ExplorerMount`: decides which requests are for the Explorer. `http.app` asks it about each request.

It does not import jinja2, which the Explorer needs, until the first page is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..._extras import need
from ...broker.base import Broker
from ...errors import ConfigurationError
from ..answer import Answer
from ..authorization import Guard
from ..request import Headers
from .transport import ReadBody, Wait

if TYPE_CHECKING:
    from .explorer import Explorer

_ROOT = "/explorer"


def is_for_explorer(path: str, authorization: str | None) -> bool:
    """Return whether a request is for the Explorer.

    The paths of a queue ``explorer``, and of queues such as ``explorer/a``, begin in the same way. But every request of the
    session protocol has a shared access signature, and browsers send none.

    Args:
        path: The path, without the prefix at which the application is mounted.
        authorization: The header ``Authorization``.
    """
    is_below = path == _ROOT or path.startswith(f"{_ROOT}/")
    return is_below and not (authorization or "").lstrip().lower().startswith("sharedaccesssignature ")


class ExplorerMount:
    """The Explorer of an application. It belongs to the thread of the event loop.

    Args:
        broker: The broker.
        guard: Has the keys with which users sign in.
        wait: Waits in the event loop for results of the broker.
        max_message_size: Bytes of a message's body at most.
    """

    def __init__(self, broker: Broker, guard: Guard, wait: Wait, max_message_size: int) -> None:
        self._parts = (broker, guard, wait, max_message_size)
        self._explorer: Explorer | None = None

    async def answer(
        self, method: str, path: str, query: str, headers: Headers, scope: Mapping[str, Any], read_body: ReadBody
    ) -> Answer:
        """Answer a request that `is_for_explorer`.

        Args:
            method: The HTTP method.
            path: The path, without the prefix at which the application is mounted.
            query: The query, percent-encoded.
            headers: The headers.
            scope: The request, as ASGI describes it.
            read_body: Reads the body.
        """
        try:
            explorer = self._load()
        except ConfigurationError as error:
            return Answer(501, {"Content-Type": "text/plain; charset=utf-8"}, f"{error}\n".encode())
        page = _page_of(path)
        # The header makes a cookie stricter and nothing else, so anyone may send it.
        forwarded = (headers.get("X-Forwarded-Proto") or "").partition(",")[0].strip().lower()
        is_secure = "https" in (scope.get("scheme"), forwarded)
        address = str((scope.get("client") or ("",))[0])
        return await explorer.answer(method, page, query, headers, is_secure=is_secure, address=address, read_body=read_body)

    def route(self, path: str) -> str:
        """Return the path of a page for logs and spans, with a placeholder for a page that does not exist.

        Args:
            path: The path that `answer` got.
        """
        page = _page_of(path)
        if page is None:
            return _ROOT
        is_known = self._explorer is not None and self._explorer.has_page(page)
        return f"{_ROOT}/{page if is_known else '{page}'}"

    def _load(self) -> Explorer:
        """Return the Explorer.

        Raises:
            ConfigurationError: jinja2 is not installed.
        """
        if self._explorer is None:
            need("jinja2", "server")
            from .explorer import Explorer

            self._explorer = Explorer(*self._parts)
        return self._explorer


def _page_of(path: str) -> str | None:
    """Return the name of a page. `None`: the path is the root without a slash, which is in the folder above the pages."""
    if path == _ROOT:
        return None
    # An escaped slash does not make a folder, for browsers either.
    return "/".join(unquote(part).replace("/", "%2F") for part in path[len(_ROOT) + 1 :].split("/"))
