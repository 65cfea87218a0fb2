"""The route of backups: a large file, a client that goes away, and keys that are limited to queues."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from azsession.broker.calls import CallContext
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService, Right
from tests.conftest import eventually

from ..raw import KEYS, Gateway, SteppedClock

#: More than the buffers of two sockets hold.
SIZE = 40


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:  # type: ignore[misc]
    service = GatewayService(EmbeddedBroker(tmp_path / "data.db", queues=["q"]), KEYS)
    with service:
        gateway = Gateway(service, SteppedClock())
        for _ in range(SIZE):
            gateway.send("q", "big", "x" * 500_000)
        yield gateway


def open_backups() -> int:
    """Return how many backups this process has open."""
    return sum("backup-part" in os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))


def test_a_large_backup_arrives_whole(gateway: Gateway, tmp_path: Path) -> None:
    reply = gateway.ask("GET", "/$backup")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/vnd.sqlite3")
    assert len(reply.body) == int(reply.headers["Content-Length"]) > SIZE * 500_000
    copy = tmp_path / "copy.db"
    copy.write_bytes(reply.body)
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (SIZE,)
    eventually(lambda: open_backups() == 0)


def test_a_client_that_goes_away_leaves_no_file_open(gateway: Gateway, tmp_path: Path) -> None:
    with gateway.open_socket(gateway.head("GET", "/$backup")) as sock:
        assert sock.recv(12) == b"HTTP/1.1 200"
        assert open_backups() == 1
    eventually(lambda: open_backups() == 0)
    assert not list(tmp_path.glob("*backup*"))


def test_other_requests_are_answered_while_a_backup_is_sent(gateway: Gateway) -> None:
    with gateway.open_socket(gateway.head("GET", "/$backup")) as sock:
        assert sock.recv(12) == b"HTTP/1.1 200"
        assert gateway.ask("GET", "/healthz").status == 200
        gateway.send("q", "s", "while it is sent")
    eventually(lambda: open_backups() == 0)


def test_a_second_backup_is_answered_429_while_one_is_made(gateway: Gateway) -> None:
    broker = gateway.service.broker
    assert isinstance(broker, EmbeddedBroker)
    with broker._backups._running:
        reply = gateway.ask("GET", "/$backup")
    assert (reply.status, reply.code, reply.headers["Retry-After"]) == (429, "Throttled", "1")


def test_a_client_that_leaves_while_its_backup_is_made_ends_it(gateway: Gateway) -> None:
    broker = gateway.service.broker
    assert isinstance(broker, EmbeddedBroker)
    first = broker.backup(context=CallContext(blocking=False))
    first.result().file.close()
    with gateway.open_socket(gateway.head("GET", "/$backup")):
        pass
    # The backup of the client that left may have been made already, or not yet.
    eventually(lambda: gateway.ask("GET", "/$backup").status == 200)
    eventually(lambda: open_backups() == 0)


def test_a_key_that_is_limited_to_queues_gets_no_backup(gateway: Gateway) -> None:
    limited = AccessKey("limited", "c2VjcmV0", frozenset({Right.MANAGE}), queues=frozenset({"q"}))
    gateway.service.replace_keys([*KEYS, limited])
    reply = gateway.ask("GET", "/$backup", key=limited)
    assert (reply.status, reply.code) == (403, "Forbidden")
    assert "limited to some queues" in reply.json["error"]["message"]


@pytest.mark.parametrize("reads", [True, False])
def test_a_revoked_key_gets_no_more_of_its_backup(gateway: Gateway, reads: bool, caplog: pytest.LogCaptureFixture) -> None:
    key = AccessKey("backups", "YmFja3Vwcw==")
    gateway.service.replace_keys([*KEYS, key])
    with gateway.open_socket(gateway.head("GET", "/$backup", key=key)) as sock:
        assert sock.recv(12) == b"HTTP/1.1 200"
        gateway.service.replace_keys(KEYS)
        if reads:
            size = 0
            with suppress(ConnectionResetError):
                while piece := sock.recv(1 << 20):
                    size += len(piece)
            assert size < SIZE * 500_000
        # A client that does not read does not keep the backup open.
        eventually(lambda: open_backups() == 0)
    assert gateway.ask("GET", "/healthz").status == 200
    assert not [record for record in caplog.records if record.name.startswith("azsession")]


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_backup_has_one_method(gateway: Gateway, method: str) -> None:
    assert gateway.ask(method, "/$backup").status == 405
