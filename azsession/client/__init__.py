"""The client library: `ServiceBusProvider`, `SessionClient`, and the modules that they use to reach a server."""
