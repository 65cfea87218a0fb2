"""`azsession serve` as a process: data files, keys, addresses and shutdown."""

from __future__ import annotations

import json
import signal
import socket
import stat
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import trustme

from azsession import Message, ServiceBusConfig, ServiceBusProvider
from azsession.protocol.sas import generate_sas_token

from ..conftest import eventually
from ..support.processes import PATIENCE, Served, assert_one_line, run, run_here

SECRET = "dGhpcy1pcy1hLXNlY3JldA=="


def _provider(connection_string: str) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(connection_string)


def test_stdout_has_only_the_connection_string(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--auto-create") as served:
        with _provider(served.line) as provider:
            provider.send_message("q", Message("x", session_id="s"))
        status, out, err = served.end()
    assert (status, out) == (0, "")
    assert str(data) in err
    assert f"{data}.key" in err
    assert "SharedAccessKey=" not in err


def test_json_contains_the_connection_string_the_url_and_the_data_file(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--json") as served:
        output = json.loads(served.line)
        assert set(output) == {"connection_string", "url", "data"}
        assert output["connection_string"].startswith(f"Endpoint={output['url']}/;SharedAccessKeyName=")
        assert output["data"] == str(data)
        assert requests.get(f"{output['url']}/healthz", timeout=10).status_code == 200


def test_memory_writes_no_key_file(tmp_path: Path) -> None:
    with Served("--memory", "--json", cwd=tmp_path) as served:
        output = json.loads(served.line)
        assert output["data"] is None
        with _provider(output["connection_string"]) as provider:
            assert provider.list_queues() == []
    assert list(tmp_path.iterdir()) == []


def test_a_restart_with_the_same_data_keeps_messages_and_key(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--queue", "orders") as served:
        first = ServiceBusConfig(connection_string=served.line).credentials
        with _provider(served.line) as provider:
            provider.send_message("orders", Message("paid", session_id="order-42"))
    with Served("--data", data) as served:
        second = ServiceBusConfig(connection_string=served.line).credentials
        with _provider(served.line) as provider, provider.create_session_client("orders", "order-42") as session:
            message = session.receive_message(timeout=0)
    assert message is not None
    assert message.text() == "paid"
    assert first is not None
    assert second is not None
    assert first.key == second.key


def test_the_default_data_file_is_in_the_users_data_folder(tmp_path: Path) -> None:
    ended = run("serve", "--host", "192.0.2.1", "--insecure", XDG_DATA_HOME=str(tmp_path / "share"))
    assert_one_line(ended, "cannot listen on 192.0.2.1")
    assert (tmp_path / "share" / "azsession" / "azsession.db").exists()
    assert stat.S_IMODE((tmp_path / "share" / "azsession").stat().st_mode) == 0o700


def test_only_the_owner_can_read_key_and_data(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, umask=0):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["data.db.key"] == 0o600
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "data.db.key"
    key.write_text(f"app:{SECRET}:Manage\n")
    key.chmod(0o640)
    ended = run("serve", "--port", "0", "--data", tmp_path / "data.db")
    assert_one_line(ended, str(key), "read by others", "0640")
    assert SECRET not in ended.stderr


def test_a_damaged_key_file_is_refused_and_not_changed(tmp_path: Path) -> None:
    key = tmp_path / "data.db.key"
    key.write_text("half a ke")
    key.chmod(0o600)
    assert_one_line(run("serve", "--port", "0", "--data", tmp_path / "data.db"), str(key), "damaged")
    assert key.read_text() == "half a ke"


def test_a_second_serve_with_the_same_data_is_refused_and_the_first_continues(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--auto-create") as served:
        assert_one_line(run("serve", "--port", "0", "--data", data), str(data), "open in another process")
        with _provider(served.line) as provider:
            provider.send_message("q", Message("x", session_id="s"))


def test_a_port_in_use_prints_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(run("serve", "--memory", "--port", str(port)), f"cannot listen on 127.0.0.1:{port}")


def test_a_missing_folder_prints_one_line(tmp_path: Path) -> None:
    assert_one_line(run_here("serve", "--data", tmp_path / "missing" / "data.db"), "missing", "folder")


@pytest.mark.parametrize(
    "arguments",
    [["--memory", "--data", "x.db"], ["--tls-cert", __file__], ["--key", "a:b:Send", "--key", "a:c:Listen"]],
)
def test_contradicting_options_are_wrong_usage(arguments: list[str]) -> None:
    assert_one_line(run_here("serve", "--port", "0", *arguments), "--help", status=2)


# Keys and queues


def test_keys_have_their_rights_and_the_connection_string_contains_the_first(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--auto-create", "--key", f"in:{SECRET}:Send", "--key", "out:other:Listen") as served:
        url = served.line.partition(";")[0]
        assert served.line == f"{url};SharedAccessKeyName=in;SharedAccessKey={SECRET}"
        sent = run_here("send", "q", "--body", "x", "--session-id", "s", connection_string=served.line)
        assert sent.returncode == 0
        assert_one_line(run_here("sessions", "q", connection_string=served.line), "'in'", "Listen")
        out = f"{url};SharedAccessKeyName=out;SharedAccessKey=other"
        assert json.loads(run_here("sessions", "q", "--json", connection_string=out).stdout)["session_id"] == "s"
    assert not Path(f"{data}.key").exists()


@pytest.mark.parametrize("key", [f"app:{SECRET}", f"app:{SECRET}:Everything", f"app:{SECRET};x:Send"])
def test_a_malformed_key_is_refused_and_not_shown(key: str) -> None:
    ended = run_here("serve", "--memory", "--port", "0", "--key", key)
    assert_one_line(ended, "NAME:KEY:RIGHTS")
    assert SECRET not in ended.stderr


def test_without_auto_create_only_the_given_queues_exist() -> None:
    with Served("--memory", "--queue", "orders", "--queue", "bills") as served:
        listed = run_here("queue", "list", "--json", connection_string=served.line)
        assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == ["bills", "orders"]
        ended = run_here("send", "other", "--body", "x", "--session-id", "s", connection_string=served.line)
        assert_one_line(ended, "no queue 'other'")


# Addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])
def test_an_address_other_than_loopback_needs_tls_or_insecure(host: str) -> None:
    assert_one_line(run("serve", "--memory", "--port", "0", "--host", host), host, "--tls-cert", "--insecure")


def test_with_host_0_0_0_0_the_connection_string_names_a_working_address() -> None:
    with Served("--memory", "--auto-create", "--host", "0.0.0.0", "--insecure") as served:
        with _provider(served.line) as provider:
            provider.send_message("q", Message("x", session_id="s"))
        other = served.line.replace("127.0.0.1", "localhost")
        assert other != served.line
        with _provider(other) as provider:
            assert provider.list_sessions("q")[0].message_count == 1
        _, _, err = served.end()
    assert "--hostname" in err
    assert "without TLS" in err


def test_hostname_makes_tokens_for_that_name_valid_behind_a_proxy() -> None:
    with Served("--memory", "--auto-create", "--hostname", "queues.example", "--key", f"app:{SECRET}:Manage") as served:
        assert served.line.startswith("Endpoint=http://queues.example:")
        port = urlsplit(served.line.partition("=")[2].partition(";")[0]).port
        url = f"http://127.0.0.1:{port}/q/sessions"

        def status(host: str) -> int:
            token = generate_sas_token(f"https://{host}/q", "app", SECRET, int(time.time()) + 60)
            return requests.get(url, headers={"Authorization": token}, timeout=10).status_code

        assert (status("queues.example"), status("elsewhere.example")) == (200, 401)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Files with a certificate for localhost, its private key, and the certificate of its authority."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    chain, key, trusted = (tmp_path / name for name in ("chain.pem", "key.pem", "ca.pem"))
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(chain), append=number > 0)
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(trusted))
    return chain, key, trusted


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_with_tls_the_connection_string_names_a_host_of_the_certificate(
    certificate: tuple[Path, Path, Path], host: str
) -> None:
    chain, key, trusted = certificate
    with Served("--memory", "--auto-create", "--host", host, "--tls-cert", chain, "--tls-key", key) as served:
        assert served.line.startswith("Endpoint=https://localhost:")
        sent = run_here(
            "send", "q", "--body", "x", "--session-id", "s", "--ca-bundle", trusted, connection_string=served.line
        )
        assert (sent.returncode, sent.stderr) == (0, "")
        got = run_here("receive", "q", "--json", "--complete", "--ca-bundle", trusted, connection_string=served.line)
        assert json.loads(got.stdout)["body"] == "x"
        assert_one_line(run_here("sessions", "q", connection_string=served.line), "https://localhost", "certificate")


def test_a_malformed_certificate_prints_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    assert_one_line(run("serve", "--memory", "--port", "0", "--tls-cert", wrong, "--tls-key", wrong), "certificate")


# Shutdown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
    assert (status, out) == (0, "")
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


def test_messages_sent_before_a_kill_are_kept(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--auto-create") as served:
        with _provider(served.line) as provider:
            provider.send_message("q", Message("kept", session_id="s"))
        served.process.kill()
        served.wait()
    with Served("--data", data) as served, _provider(served.line) as provider:
        assert [message.text() for message in provider.peek_messages("q", "s")] == ["kept"]
