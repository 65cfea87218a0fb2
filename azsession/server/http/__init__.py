"""The gateway over HTTP: the ASGI application, and the server that runs it."""
