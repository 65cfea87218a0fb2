"""`azsession serve` in front of an Azure namespace, as processes. Azsession's own AMQP endpoint serves the namespace."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from azsession import (
    Message,
    QueueError,
    ServiceBusProvider,
)

from ..namespaces import OwnNamespace
from ..support.processes import PATIENCE, Served, assert_one_line, environment, run, run_here
from .conftest import QUEUE
from .helpers import key_of

CONNECTION = "AZSESSION_AZURE_CONNECTION_STRING"
NAMESPACE = "AZSESSION_AZURE_NAMESPACE"
SOME = "Endpoint=sb://myns.servicebus.windows.net/;SharedAccessKeyName=app;SharedAccessKey=c2VjcmV0LWtleQ=="


def _provider(connection_string: str, **fields: Any) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(connection_string, **fields)


def _stderr_line(served: Served, words: str) -> str:
    """Return the next line on stderr that contains `words`."""
    assert served.process.stderr is not None
    read: list[str] = []
    for line in served.process.stderr:
        read.append(line)
        if words in line:
            return line
    raise AssertionError(f"{words!r} is not in {read}")


def test_messages_pass_through_the_gateway_to_the_namespace_and_back(
    namespace: OwnNamespace, serve: Callable[..., Served]
) -> None:
    served = serve()
    with _provider(served.line) as provider:
        ids = provider.send_messages(QUEUE, [Message(text, session_id="42") for text in ("placed", "paid", "packed")])
        with provider.create_session_client(QUEUE, accept_timeout=10) as session:
            texts = []
            for message in session.messages(timeout=0):
                texts.append(message.text())
                session.complete_message(message)
    assert texts == ["placed", "paid", "packed"]
    assert [entry[0::2] for entry in namespace.completed(QUEUE)] == [("42", name) for name in ids]
    assert namespace.locked_sessions(QUEUE) == set()
    assert served.end()[0] == 0


def test_the_output_names_the_namespace_and_contains_no_secret(namespace: OwnNamespace, serve: Callable[..., Served]) -> None:
    served = serve("--json")
    output = json.loads(served.line)
    assert set(output) == {"connection_string", "url", "data", "azure"}
    assert (output["data"], output["azure"]) == (None, "127.0.0.1")
    assert requests.get(f"{output['url']}/healthz", timeout=10).status_code == 200
    heard = _stderr_line(served, "answers")
    status, out, err = served.end()
    assert (status, out) == (0, "")
    secret = key_of(namespace.connection_string)
    for text in (served.line, heard, err):
        assert secret not in text
        assert "sig=" not in text
    assert secret != key_of(output["connection_string"])


def test_the_command_line_overrides_the_environment(namespace: OwnNamespace, tmp_path: Path) -> None:
    arguments = ("--azure", namespace.connection_string, "--key", "app:c2VjcmV0:Send,Listen")
    with Served(*arguments, env={NAMESPACE: "elsewhere"}, cwd=tmp_path) as served, _provider(served.line) as provider:
        provider.send_message(QUEUE, Message("x", session_id="s"))
    assert namespace.counts(QUEUE).active == 1
    assert list(tmp_path.iterdir()) == []


# Options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--azure", SOME, "--data", "x.db"], ["--data", "--azure", "Azure"]),
        (["--azure", SOME, "--memory"], ["--memory", "--azure"]),
        (["--azure", SOME, "--queue", "q"], ["--queue", "Azure's tools"]),
        (["--azure-namespace", "myns", "--auto-create"], ["--auto-create", "--azure-namespace"]),
        (["--azure", SOME, "--azure-namespace", "myns"], ["not both"]),
        (["--azure-websockets"], ["--azure-namespace"]),
        (["--memory", "--key", "a:b:Send", "--key-file", "x"], ["--key-file", "not both"]),
    ],
)
def test_contradicting_options_are_wrong_usage(arguments: list[str], words: list[str]) -> None:
    ended = run_here("serve", "--port", "0", *arguments)
    assert_one_line(ended, "--help", *words, status=2)
    assert "c2VjcmV0LWtleQ" not in ended.stderr


def test_an_option_that_contradicts_the_environment_names_the_variable() -> None:
    ended = run("serve", "--memory", AZSESSION_AZURE_CONNECTION_STRING=SOME)
    assert_one_line(ended, CONNECTION, "--memory", "--help", status=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secret-key", ["'='"]),
        ("Endpoint=http://127.0.0.1:8720/;SharedAccessKeyName=a;SharedAccessKey=secret-key", ["http://", "AMQP"]),
        ("Endpoint=sb://myns.servicebus.windows.net/", ["no key", "--azure-namespace"]),
    ],
)
def test_a_malformed_connection_string_is_refused_and_not_shown(text: str, words: list[str]) -> None:
    ended = run_here("serve", "--port", "0", "--azure", text)
    assert_one_line(ended, "--azure", *words)
    assert "secret-key" not in ended.stderr


# Warnings about a namespace that cannot be used


def _serve_warns(azure: str, *words: str, serve: Callable[..., Served]) -> None:
    served = serve(azure=azure)
    line = _stderr_line(served, "warning")
    for word in words:
        assert word in line
    # The gateway serves in any case, and its clients get the error.
    url = served.line.partition("=")[2].partition("/;")[0]
    assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
    with _provider(served.line, retry_attempts=0) as provider, pytest.raises(QueueError):
        provider.send_message(QUEUE, Message("x", session_id="s"))
    status, out, err = served.end()
    assert (status, out) == (0, "")
    assert key_of(azure) not in line + err


def test_an_unreachable_namespace_prints_a_warning(namespace: OwnNamespace, serve: Callable[..., Served]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        azure = namespace.connection_string.replace(str(namespace.port), port)
        _serve_warns(azure, "cannot be reached", f"127.0.0.1:{port}", serve=serve)


def test_a_key_that_the_namespace_refuses_prints_a_warning(namespace: OwnNamespace, serve: Callable[..., Served]) -> None:
    azure = namespace.connection_string.replace(key_of(namespace.connection_string), "wrong")
    _serve_warns(azure, "refused", "EntityPath", serve=serve)


def test_azure_namespace_connects_to_the_given_host(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with Served("--azure-namespace", host, "--key-file", tmp_path / "key", "--json") as served:
            assert json.loads(served.line)["azure"] == "127.0.0.1"
            assert host in _stderr_line(served, "cannot be reached")


# Between processes

COMPLETE = """
import sys
from azsession import ServiceBusProvider
with ServiceBusProvider.from_env() as provider:
    with provider.session_from_receipt(sys.argv[1]) as session:
        session.complete_message(sys.argv[1])
"""


def test_another_process_completes_a_message_with_the_text_of_its_receipt(
    namespace: OwnNamespace, serve: Callable[..., Served]
) -> None:
    line = serve().line
    with _provider(line) as provider:
        (name,) = provider.send_messages(QUEUE, [Message("ship it", session_id="44")])
        with provider.create_session_client(QUEUE, "44") as session:
            receipt = str(session.receive_messages(1, timeout=10)[0].receipt)
            # The gateway answers that process only after Azure has answered.
            command = [sys.executable, "-c", COMPLETE, receipt]
            ended = subprocess.run(
                command, env=environment(line), capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
            assert [entry[0::2] for entry in namespace.completed(QUEUE)] == [("44", name)]
            assert namespace.locked_sessions(QUEUE) == {"44"}
    assert namespace.counts(QUEUE).active == 0
