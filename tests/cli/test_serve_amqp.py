"""`azsession serve` has an AMQP endpoint for Azure's SDKs, and options for it."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient

from azsession.cli.serve_amqp import USUAL_PORT, AmqpOptions

from ..support.processes import Served, assert_one_line, run
from ..support.sdk import message, receive, send, session, sockets_closed, wait_for_closings


def test_the_printed_connection_string_works_with_the_sdk_and_survives_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    for number in ("1", "2"):
        with Served("--data", data, "--queue", "orders", "--amqp-port", "0", "--json") as served, sockets_closed():
            text = json.loads(served.line)["amqp_connection_string"]
            with ServiceBusClient.from_connection_string(text, retry_total=0, keep_alive=None) as client:
                send(client, "orders", message(number))
                with session(client, "orders", wait_for_close=True) as receiver:
                    assert [str(one) for one in receive(receiver, int(number))] == ["1", "2"][: int(number)]
                wait_for_closings()


@pytest.mark.parametrize("command", [("queue", "list"), ("queue", "create", "new"), ("backup", "copy.db")])
def test_a_command_that_needs_http_names_the_other_connection_string(tmp_path: Path, command: tuple[str, ...]) -> None:
    with Served("--memory", "--amqp-port", "0", "--json", cwd=tmp_path) as served:
        text = json.loads(served.line)["amqp_connection_string"]
        ended = run(*command, "--connection-string", text, cwd=tmp_path)
    assert_one_line(ended, "if the server is azsession serve, use the connection string that begins with Endpoint=http")


def test_without_the_endpoint_there_is_no_second_connection_string(tmp_path: Path) -> None:
    with Served("--memory", "--no-amqp", "--json", cwd=tmp_path) as served:
        assert set(json.loads(served.line)) == {"connection_string", "url", "data"}


def test_gateways_that_start_at_the_same_time_all_get_a_port(tmp_path: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        started = pool.map(lambda _: stack.enter_context(Served("--memory", "--json", cwd=tmp_path)), range(6))
        texts = {json.loads(served.line)["amqp_connection_string"].partition(";")[0] for served in started}
    assert len(texts) == 6


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("serve", "--memory", "--port", "0", "--amqp-port", port, cwd=tmp_path)
    assert_one_line(ended, "cannot listen on", port)


def test_options_that_contradict_each_other_are_refused() -> None:
    assert run("serve", "--memory", "--amqp-port", "0", "--no-amqp").returncode == 2
    azure = "Endpoint=sb://127.0.0.1/;SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true"
    ended = run("serve", "--azure", azure, "--amqp-port", "0")
    assert (ended.returncode, "--amqp-port cannot be used with" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "host", "is_azure", "port"),
    [
        (AmqpOptions(5000, False), "0.0.0.0", False, 5000),
        (AmqpOptions(None, False), "0.0.0.0", False, None),
        (AmqpOptions(None, False), "127.0.0.1", True, None),
        (AmqpOptions(None, True), "127.0.0.1", False, None),
    ],
)
def test_the_port_follows_from_the_options(options: AmqpOptions, host: str, is_azure: bool, port: int | None) -> None:
    assert options.chosen_port(host, is_azure=is_azure) == port


def test_the_usual_port_is_taken_if_it_is_free() -> None:
    # Other processes of this machine may have the port.
    assert AmqpOptions(None, False).chosen_port("127.0.0.1", is_azure=False) in (USUAL_PORT, 0)
    with socket.create_server(("127.0.0.2", USUAL_PORT)):
        assert AmqpOptions(None, False).chosen_port("127.0.0.2", is_azure=False) == 0
