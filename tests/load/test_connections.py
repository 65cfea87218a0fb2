"""Over the limits on connections, requests and files the answer is 503 at once, and others are served."""

from __future__ import annotations

import gc
import resource
import socket
import time
import weakref
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from azsession.server.http import limits

from ..conftest import eventually
from ..server.raw import connections, fresh_id, places_left, read_reply, serving
from ..support.processes import Served
from .burst import Orders, Watch, burst

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def is_over(sock: socket.socket) -> bool:
    """Read until the connection ends."""
    sock.settimeout(20)
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


# Connections


def test_a_connection_over_the_limit_gets_503_at_once_and_others_are_served() -> None:
    with serving(max_connections=3) as gateway, ExitStack() as stack:
        queue = gateway.queue()
        waiting = [stack.enter_context(gateway.holder(queue, f"s{n}", fresh_id()).start_receive(60)) for n in range(3)]
        eventually(lambda: places_left(gateway) == 13)
        for _ in range(5):
            with gateway.open_socket(HEALTH) as sock:
                reply = read_reply(sock)
                assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "ServerBusy", "1")
                assert is_over(sock)
        gateway.service.broker.stop_waiting()
        assert [read_reply(sock).status for sock in waiting] == [204] * 3


def test_the_longest_idle_connection_is_closed_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_GRACE", 0.0)
    with serving(max_connections=3) as gateway, ExitStack() as stack:
        kept = [gateway.connect() for _ in range(3)]
        for connection in kept:
            stack.callback(connection.close)
            assert gateway.ask("GET", "/healthz", connection=connection).status == 200
        # The first connection was used last.
        assert gateway.ask("GET", "/healthz", connection=kept[0]).status == 200
        eventually(lambda: len(gateway.service._listener.connections._idle) == 3)
        with gateway.open_socket(HEALTH) as sock:
            assert read_reply(sock).status == 200
            assert is_over(kept[1].sock)
            for connection in (kept[0], kept[2]):
                assert gateway.ask("GET", "/healthz", connection=connection).status == 200


def test_a_connection_whose_answer_is_not_read_yet_is_not_closed_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_GRACE", 0.0)
    monkeypatch.setattr(limits, "CHECK_PAUSE", 0.01)
    with serving(max_connections=2) as gateway, ExitStack() as stack:
        queue = gateway.queue()
        body = b"x" * 48_000
        assert gateway.ask("POST", f"/{queue}/messages", body, {"BrokerProperties": '{"SessionId": "s"}'}).status == 201
        waiting = gateway.holder(queue, "other", fresh_id()).start_receive(60)
        stack.enter_context(waiting)
        eventually(lambda: places_left(gateway) == 15 and connections(gateway) == 1)
        busy = stack.enter_context(socket.socket())
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        busy.connect((gateway.host, gateway.port))
        eventually(lambda: connections(gateway) == 2)
        for connection in list(gateway.service._listener.connections._open):
            sock = connection._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        busy.sendall(gateway.head("GET", f"/{queue}/sessions/s/messages?max=1"))
        assert busy.recv(100)
        for _ in range(20):
            with gateway.open_socket(HEALTH) as sock:
                assert read_reply(sock).status == 503
        busy.settimeout(20)
        size = 100
        while size < len(body) and (data := busy.recv(65536)):
            size += len(data)
        assert size >= len(body)


def test_a_new_connection_is_not_closed_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_GRACE", 600.0)
    with serving(max_connections=2) as gateway, gateway.open_socket() as first, gateway.open_socket() as second:
        eventually(lambda: connections(gateway) == 2)
        with gateway.open_socket(HEALTH) as sock:
            assert read_reply(sock).status == 503
        for sock in (first, second):
            sock.sendall(HEALTH)
            assert read_reply(sock).status == 200


def test_the_number_of_refused_connections_that_stay_open_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_GRACE", 600.0)
    with serving(max_connections=16) as gateway, ExitStack() as stack:
        silent = [stack.enter_context(gateway.open_socket()) for _ in range(60)]
        # 16 connections, and 8 more that stay open until they are refused. The others are closed.
        for sock in silent[24:]:
            assert is_over(sock)
        eventually(lambda: connections(gateway) == 24)
        silent[16].sendall(HEALTH)
        assert read_reply(silent[16]).status == 503
        silent[0].sendall(HEALTH)
        assert read_reply(silent[0]).status == 200


def test_the_default_connection_limit_follows_the_file_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((1024, 853), (20_000, 16384), (resource.RLIM_INFINITY, 16384), (64, 8)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert limits.default_max_connections() == expected
        assert expected + max(8, expected // 8) <= max(limit, 16) or limit == resource.RLIM_INFINITY


def test_a_stopped_gateway_is_garbage_collected() -> None:
    with serving() as gateway:
        assert gateway.ask("GET", "/healthz").status == 200
    gone = weakref.ref(gateway.service._listener)
    del gateway

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    eventually(is_gone)


# Files


def limited(soft: int, hard: int) -> dict[str, object]:
    """Return a command that starts a process with a limit of `limit` files."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))}


def test_serve_raises_its_file_limit_to_the_hard_limit() -> None:
    with Served("--memory", **limited(200, 1000)) as served:
        assert psutil.Process(served.process.pid).rlimit(resource.RLIMIT_NOFILE) == (1000, 1000)


@pytest.mark.parametrize("options", [(), ("--max-connections", "100000")], ids=["its bound", "no file left"])
def test_a_burst_over_the_file_limit_loses_no_message(tmp_path: Path, options: tuple[str, ...]) -> None:
    data = ("--data", tmp_path / "data.db", "--queue", "orders", "--no-amqp")
    with Served(*data, *options, **limited(300, 300)) as served:
        url = served.line.split(";")[0].partition("=")[2].rstrip("/")
        orders = Orders(served.line)
        eventually(lambda: orders.ledger.counts["settled for good"] > 10)
        watch = Watch(psutil.Process(served.process.pid))
        outcomes = burst(url, 500, hold=0.5)
        assert outcomes["connected"] >= 300
        assert watch.most[1] <= 300
        assert orders.end() == []
        watch.end()
        eventually(lambda: watch.now()[1] <= watch.before[1], lambda: f"{watch.before} {watch.now()}")
        _, out, err = served.end()
    assert "Traceback" not in err
    assert err.count("no more connections can be accepted") <= 1
    assert out == ""


def test_the_accepting_thread_sleeps_while_no_file_is_left(tmp_path: Path) -> None:
    with Served("--memory", **limited(100, 100)) as served, ExitStack() as stack:
        url = served.line.split(";")[0].partition("=")[2].rstrip("/")
        host, port = url.removeprefix("http://").split(":")
        process = psutil.Process(served.process.pid)
        for _ in range(300):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        # From here on, the process can open only a few files.
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + 20, 100))
        before, ours = sum(process.cpu_times()[:2]), time.process_time()
        while time.process_time() < ours + 0.5:
            pass
        # A busy loop in the gateway would have used as much processor time as the loop here.
        assert sum(process.cpu_times()[:2]) - before < 0.25
        stack.close()
        eventually(lambda: process.num_fds() < 50)
        connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        connection.sendall(HEALTH)
        assert read_reply(connection).status == 200
