"""The name of this process in receives and accepts."""

from __future__ import annotations

import os
import re
import socket

import pytest

from azsession.client.client_name import _client_name, client_name
from azsession.server.request import CLIENT_NAME


def test_the_name_is_the_host_and_the_process() -> None:
    assert client_name() == f"{socket.gethostname()}:{os.getpid()}"


@pytest.mark.parametrize("host", ["", "münchen", "a b\r\nX: y", "x" * 300, "\ud800"])
def test_any_host_name_becomes_a_valid_header(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    name = _client_name.__wrapped__(7)
    assert re.fullmatch(CLIENT_NAME, name)
    assert name.endswith(":7")


def test_a_forked_child_has_another_name() -> None:
    parent = client_name()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, client_name().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == parent.rpartition(":")[0] + f":{child}"
    assert os.waitpid(child, 0)[1] == 0
