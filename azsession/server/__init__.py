"""The gateway: serves the session protocol on top of a broker.

* `GatewayService` serves a broker over HTTP, in a thread of this process. It needs the extra ``server``.
* `create_app` returns an ASGI application, for a server of your own.
* `AccessKey` and `Right` define the clients' keys and rights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._extras import need
from .authorization import AccessKey, Right
from .dispatch import MAX_WAITING

if TYPE_CHECKING:
    from .http.app import create_app
    from .service import GatewayService

__all__ = ["MAX_WAITING", "AccessKey", "GatewayService", "Right", "create_app"]


def __getattr__(name: str) -> Any:
    # Imported on first use: clients in the same process need neither asyncio nor the extra.
    if name == "create_app":
        from .http.app import create_app

        globals()[name] = create_app
        return create_app
    if name == "GatewayService":
        need("uvicorn", "server")
        need("httptools", "server")
        from .service import GatewayService

        globals()[name] = GatewayService
        return GatewayService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
