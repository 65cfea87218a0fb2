"""The gateway: serves the session protocol on top of a broker.

* `GatewayService` serves a broker over HTTP, in a thread of this process. It needs the extra ``server``.
* `create_app` returns an ASGI application, for a server of your own.
* `GatewayMetrics` has the metrics of a gateway, for Prometheus. It needs the extra ``metrics``.
* `AccessKey` and `Right` define the clients' keys and rights. A `Guard` holds keys that are replaced while a gateway runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._extras import need
from .access_keys import AccessKey, Right
from .authorization import Guard
from .dispatch import MAX_WAITING

if TYPE_CHECKING:
    from .http.app import create_app
    from .metrics import GatewayMetrics
    from .service import GatewayService

__all__ = ["MAX_WAITING", "AccessKey", "GatewayMetrics", "GatewayService", "Guard", "Right", "create_app"]


#: Imported on first use: clients in the same process need neither asyncio nor the extra.
_LAZY = {"GatewayMetrics": ".metrics", "GatewayService": ".service", "create_app": ".http.app"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "GatewayService":
        need("uvicorn", "server")
        need("httptools", "server")
    if name == "GatewayMetrics":
        need("prometheus_client", "metrics")
    value = globals()[name] = getattr(import_module(_LAZY[name], __name__), name)
    return value
