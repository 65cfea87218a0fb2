"""`azsession serve` as a process: output, data files, keys and queues."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import requests

from azsession import Message, ServiceBusConfig, ServiceBusProvider

from ..support.ports import free_port
from ..support.processes import Served, assert_one_line, run, run_here
from .helpers import SECRET


def _provider(connection_string: str) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(connection_string)


def test_stdout_has_only_the_connection_strings(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--auto-create") as served:
        with _provider(served.line) as provider:
            provider.send_message("q", Message("x", session_id="s"))
        assert served.process.stdout is not None
        second = served.process.stdout.readline()
        status, out, err = served.end()
    assert second.startswith("Endpoint=sb://127.0.0.1:")
    assert second.endswith(";UseDevelopmentEmulator=true\n")
    assert (status, out) == (0, "")
    assert str(data) in err
    assert f"{data}.key" in err
    assert "SharedAccessKey=" not in err


def test_json_contains_the_connection_string_the_url_and_the_data_file(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--json") as served:
        output = json.loads(served.line)
        assert set(output) == {"connection_string", "url", "data", "amqp_connection_string"}
        assert output["connection_string"].startswith(f"Endpoint={output['url']}/;SharedAccessKeyName=")
        assert output["data"] == str(data)
        assert requests.get(f"{output['url']}/healthz", timeout=10).status_code == 200


def test_the_address_of_the_explorer_is_printed_unless_it_is_off() -> None:
    for more, status in (((), 200), (("--no-explorer",), 401)):
        with Served("--memory", "--json", *more) as served:
            url = json.loads(served.line)["url"]
            assert requests.get(f"{url}/explorer/sign-in", timeout=10).status_code == status
            _, _, err = served.end()
        assert (f"web     {url}/explorer\n" in err) is (status == 200)


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


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_serve_starts_again_at_once_on_the_port_it_just_used(kill: bool) -> None:
    port = free_port()
    for _ in range(3):
        # The last --port counts.
        with Served("--memory", "--port", str(port)) as served, socket.create_connection(("127.0.0.1", port)) as sock:
            # The gateway closes this connection first, so that the port stays in use by the system for a minute.
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
            if kill:
                served.process.kill()
                served.wait()
            else:
                assert served.end()[0] == 0
            while sock.recv(1000):
                pass


def test_a_second_serve_with_the_same_data_is_refused_and_the_first_continues(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--auto-create") as served:
        assert_one_line(run("serve", "--port", "0", "--data", data), str(data), "open in another process")
        with _provider(served.line) as provider:
            provider.send_message("q", Message("x", session_id="s"))


def test_a_port_in_use_prints_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(
            run("serve", "--memory", "--port", str(port)), f"cannot listen on 127.0.0.1:{port}: Address already in use\n"
        )


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


def test_the_environment_can_have_the_keys() -> None:
    with Served("--memory", env={"AZSESSION_KEYS": f"in:{SECRET}:Send out:other:Listen"}) as served:
        assert served.line.endswith(f";SharedAccessKeyName=in;SharedAccessKey={SECRET}")
        assert_one_line(run_here("sessions", "q", connection_string=served.line), "'in'", "Listen")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_hidden_key_is_in_no_output(more: list[str]) -> None:
    with Served("--memory", "--hide-key", *more, env={"AZSESSION_KEYS": f"in:{SECRET}:Send"}) as served:
        _, out, err = served.end()
        assert SECRET not in served.line + out + err
        assert "SharedAccessKeyName=in;SharedAccessKey=<hidden>" in served.line


@pytest.mark.parametrize("key", [f"app:{SECRET}", f"app:{SECRET}:Everything", f"app:{SECRET};x:Send"])
def test_a_malformed_key_is_refused_and_not_shown(key: str) -> None:
    ended = run_here("serve", "--memory", "--port", "0", "--key", key)
    assert_one_line(ended, "NAME:KEY:RIGHTS", status=2)
    assert SECRET not in ended.stderr


def test_without_auto_create_only_the_given_queues_exist() -> None:
    with Served("--memory", "--queue", "orders", "--queue", "bills") as served:
        listed = run_here("queue", "list", "--json", connection_string=served.line)
        assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == ["bills", "orders"]
        ended = run_here("send", "other", "--body", "x", "--session-id", "s", connection_string=served.line)
        assert_one_line(ended, "no queue 'other'")


# Addresses and certificates


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])
def test_an_address_other_than_loopback_needs_tls_or_insecure(host: str) -> None:
    assert_one_line(run("serve", "--memory", "--port", "0", "--host", host), host, "--tls-cert", "--insecure")


def test_a_malformed_certificate_prints_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    assert_one_line(run("serve", "--memory", "--port", "0", "--tls-cert", wrong, "--tls-key", wrong), "certificate")


# Shutdown


def test_messages_sent_before_a_kill_are_kept(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, "--auto-create") as served:
        with _provider(served.line) as provider:
            provider.send_message("q", Message("kept", session_id="s"))
        served.process.kill()
        served.wait()
    with Served("--data", data) as served, _provider(served.line) as provider:
        assert [message.text() for message in provider.peek_messages("q", "s")] == ["kept"]
