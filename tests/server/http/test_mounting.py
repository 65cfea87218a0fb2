"""The application below a path prefix of another ASGI application."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import AccessKey, create_app
from tests.conftest import eventually

KEY = AccessKey("app", "c2VjcmV0")


async def hello(request: Any) -> PlainTextResponse:
    return PlainTextResponse("hello")


def starlette(app: Any, prefix: str) -> Any:
    """Mount the application with Starlette."""
    return Starlette(routes=[Route("/hello", hello), Mount(prefix, app=app)])


def dispatcher(app: Any, prefix: str) -> Any:
    """Mount the application by hand, as the ASGI specification describes ``root_path``."""

    async def dispatch(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{prefix}/"):
            await app({**scope, "root_path": scope.get("root_path", "") + prefix}, receive, send)
        else:
            await PlainTextResponse("hello")(scope, receive, send)

    return dispatch


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """Serve an application with uvicorn as a user would, and return its URL."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("mount", [starlette, dispatcher])
@pytest.mark.parametrize("prefix", ["/bus", "/a b/bus"])
def test_a_mounted_application_serves_clients(mount: Any, prefix: str, http: str) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(auto_create=True))
        url = stack.enter_context(served(mount(create_app(broker, keys=[KEY]), prefix), http=http))
        endpoint = f"{url}{prefix.replace(' ', '%20')}"
        string = f"Endpoint={endpoint}/;SharedAccessKeyName={KEY.name};SharedAccessKey={KEY.key}"
        with ServiceBusProvider.from_connection_string(string) as provider:
            for name in ("s", "a/b", "%2F", "é", "bus"):
                provider.send_message("bus", Message(name, session_id=name))
                with provider.create_session_client("bus", name) as session:
                    message = session.receive_message(timeout=10)
                    assert message is not None
                    assert message.text() == name
                    session.complete_message(message)
                    assert session.receive_message(timeout=0) is None


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_client_that_leaves_a_mounted_application_frees_its_session(http: str) -> None:
    with EmbeddedBroker() as broker:
        broker.create_queue("q", QueueSettings(lock_duration=300)).result()
        with served(starlette(create_app(broker, keys=None), "/bus"), http=http) as url:
            path = f"{url}/bus/q/sessions/s/messages/head"
            with pytest.raises(requests.ReadTimeout):
                requests.delete(f"{path}?timeout=60", headers={"Azsession-Lock-Id": "one"}, timeout=0.3)
            # Long before the end of the lock.
            eventually(lambda: requests.delete(f"{path}?timeout=0", headers={"Azsession-Lock-Id": "two"}).status_code == 204)
