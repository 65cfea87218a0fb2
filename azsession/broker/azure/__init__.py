"""The broker on Azure Service Bus: message sessions over AMQP 1.0. Needs the extra ``servicebus``."""

from __future__ import annotations

from ..._extras import need

need("azure", "servicebus")
need("azure.servicebus", "servicebus")

from .broker import ServiceBusBroker  # noqa: E402 - after the check that names a missing extra

__all__ = ["ServiceBusBroker"]
