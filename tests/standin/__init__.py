"""An AMQP 1.0 stand-in for an Azure Service Bus namespace, on python-qpid-proton.

`StandIn` is imported on first use, so that this package can be imported without proton: see `require`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.standin.server import StandIn as StandIn

__all__ = ["StandIn"]


def __getattr__(name: str) -> Any:
    if name == "StandIn":
        from tests.standin.server import StandIn

        return StandIn
    raise AttributeError(name)
