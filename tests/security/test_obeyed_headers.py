"""A sender cannot control the proxy between the gateway and a receiver."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from azsession import Message, PeekedMessage
from azsession.protocol.wire import decode_single, encode_single

from ..conftest import eventually
from ..server.nginx import Nginx
from ..server.raw import Gateway, fresh_id

OBEYED = {
    "X-Accel-Redirect": "/healthz",
    "x-accel-limit-rate": 1,
    "X-Accel-Buffering": "no",
    "X-Accel-Expires": 86400,
    "X-Accel-Charset": "utf-16",
    "X-Sendfile": "/etc/passwd",
    "X-LIGHTTPD-send-file": "/etc/passwd",
    "X-LiteSpeed-Location": "/healthz",
    "X-Reproxy-URL": "http://127.0.0.1/",
}


@pytest.mark.parametrize("name", OBEYED)
def test_an_attribute_never_becomes_a_header_that_a_proxy_executes(name: str) -> None:
    headers, body = encode_single(PeekedMessage(body=b"x", attributes={name: OBEYED[name]}))
    assert not {header.lower() for header in headers} & {each.lower() for each in OBEYED}
    assert decode_single(headers.items(), body)["attributes"] == {name: OBEYED[name]}


def test_a_message_with_such_attributes_reaches_its_receiver_through_nginx(
    gateway: Gateway, queue: str, tmp_path: Path
) -> None:
    gateway.service.broker.send(queue, [Message("x" * 100, session_id="s", attributes=OBEYED)])
    with Nginx(tmp_path / "nginx", [f"{gateway.host}:{gateway.port}"]) as nginx:
        eventually(nginx.is_up)
        received = requests.delete(
            f"{nginx.url}/{queue}/sessions/s/messages/head?timeout=0",
            headers={"Authorization": gateway.token(base=nginx.url), "Azsession-Lock-Id": fresh_id()},
            timeout=20,
        )
    assert (received.status_code, received.text) == (201, "x" * 100)
    assert decode_single(received.headers.items(), received.content)["attributes"] == OBEYED
