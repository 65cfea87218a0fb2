"""The client library: `ServiceBusProvider`, `SessionClient`, and what they are built from."""
