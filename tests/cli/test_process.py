"""The process of `azsession serve`: the signals that stop it."""

from __future__ import annotations

import signal
import socket
import threading
import time
import uuid
from urllib.parse import urlsplit

import pytest
import requests

from azsession.protocol.sas import generate_sas_token

from ..conftest import eventually
from ..support.processes import PATIENCE, Served
from .helpers import SECRET


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_answers_waiting_receives_and_exits_with_0(number: signal.Signals) -> None:
    with Served("--memory", "--auto-create", "--key", f"app:{SECRET}:Manage") as served:
        url = served.line.partition("=")[2].partition("/;")[0]
        token = generate_sas_token(f"{url}/q", "app", SECRET, int(time.time()) + 60)

        def ask(method: str, operation: str, holder: str) -> int:
            headers = {"Authorization": token, "Azsession-Lock-Id": holder}
            return requests.request(method, f"{url}/q/sessions/s/{operation}", headers=headers, timeout=PATIENCE).status_code

        got: list[int] = []

        def wait() -> None:
            while not got or got[-1] == 423:
                got.append(ask("DELETE", "messages/head?timeout=50", "waiting"))

        def is_waiting() -> bool:
            """Tell whether the waiting receive has the lock. It takes the lock before it waits."""
            probe = str(uuid.uuid4())
            if ask("DELETE", "messages/head?timeout=0", probe) == 423:
                return True
            ask("POST", "release", probe)
            return False

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(is_waiting, lambda: f"the receive does not wait: {got}")
        served.process.send_signal(number)
        status, out, err = served.wait()
        thread.join(PATIENCE)
    # The first line was read already, and maybe the second one, that of the AMQP endpoint.
    assert (status, {line.partition("//")[0] for line in out.splitlines()} - {"Endpoint=sb:"}) == (0, set())
    assert "Traceback" not in err
    assert got[-1] == 204


def test_a_second_signal_ends_the_process_at_once() -> None:
    with Served("--memory", "--key", f"app:{SECRET}:Manage") as served:
        port = urlsplit(served.line.partition("=")[2].partition(";")[0]).port or 0
        # A request whose body never arrives delays the shutdown after the first signal.
        with socket.create_connection(("127.0.0.1", port)) as slow:
            token = generate_sas_token("http://127.0.0.1/q", "app", SECRET, int(time.time()) + 60)
            head = f"POST /q/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\nExpect: 100-continue\r\n"
            slow.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
            # The server sends 100 when it starts to read the body.
            assert slow.recv(1024).startswith(b"HTTP/1.1 100")
            served.process.send_signal(signal.SIGTERM)
            assert served.process.stderr is not None
            said = ""
            while "stopping" not in said:
                said = served.process.stderr.readline()
                assert said
            served.process.send_signal(signal.SIGTERM)
            status, _, _ = served.wait()
    assert status == -signal.SIGTERM


def test_an_ignored_sighup_stays_ignored() -> None:
    with Served("--memory", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as served:
        url = served.line.partition("=")[2].partition("/;")[0]
        served.process.send_signal(signal.SIGHUP)
        for _ in range(3):
            assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
        assert served.end()[0] == 0
