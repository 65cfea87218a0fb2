"""The gateway: serves the session protocol on top of a broker.

* `GatewayService` serves a broker over HTTP, in a thread of this process. It needs the extra ``server``.
* `create_app` returns an ASGI application, for a server of your own.
* `AccessKey` and `Right` define the clients' keys and rights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._extras import need
from .authorization import AccessKey, Right
from .http.app import MAX_WAITING, create_app

if TYPE_CHECKING:
    from .service import GatewayService

__all__ = ["MAX_WAITING", "AccessKey", "GatewayService", "Right", "create_app"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the module needs an extra.
    if name != "GatewayService":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    need("uvicorn", "server")
    need("httptools", "server")
    from .service import GatewayService

    globals()[name] = GatewayService
    return GatewayService
