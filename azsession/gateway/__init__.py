"""The gateway: the session protocol over HTTP, on top of a broker. `create_app` gives its WSGI application.

Needs the extra ``server``.
"""

from __future__ import annotations

from .._extras import need

need("falcon", "server")
need("cheroot", "server")

from .app import create_app  # noqa: E402 - after the check that names a missing extra
from .security import AccessKey, Right  # noqa: E402
from .service import GatewayService  # noqa: E402

__all__ = ["AccessKey", "GatewayService", "Right", "create_app"]
