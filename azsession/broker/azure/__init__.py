"""The broker on Azure Service Bus: message sessions over AMQP 1.0."""

from .broker import AzureBroker

__all__ = ["AzureBroker"]
