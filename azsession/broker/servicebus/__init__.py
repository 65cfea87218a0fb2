"""The broker on Azure Service Bus."""
