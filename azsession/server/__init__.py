"""The gateway: the session protocol over HTTP, on top of a broker. `create_app` gives its WSGI application, and
`GatewayService` serves it; `inprocess` does without a server.

Needs the extra ``server``; `inprocess` needs only falcon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._extras import need

need("falcon", "server")

from .authorization import AccessKey, Right  # noqa: E402
from .dispatch import MAX_WAITING, create_app  # noqa: E402 - after the check that names a missing extra

if TYPE_CHECKING:
    from .service import GatewayService

__all__ = ["MAX_WAITING", "AccessKey", "GatewayService", "Right", "create_app"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: it needs cheroot.
    if name != "GatewayService":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    need("cheroot", "server")
    from .service import GatewayService

    globals()[name] = GatewayService
    return GatewayService
