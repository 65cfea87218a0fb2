"""The URL in the connection string that `azsession serve` prints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import trustme

from azsession import Message, ServiceBusProvider
from azsession.protocol.sas import generate_sas_token

from ..support.processes import Served, assert_one_line, run, run_here
from .helpers import SECRET


def test_with_host_0_0_0_0_the_connection_string_names_a_working_address() -> None:
    with Served("--memory", "--auto-create", "--host", "0.0.0.0", "--insecure") as served:
        with ServiceBusProvider.from_connection_string(served.line) as provider:
            provider.send_message("q", Message("x", session_id="s"))
        other = served.line.replace("127.0.0.1", "localhost")
        assert other != served.line
        with ServiceBusProvider.from_connection_string(other) as provider:
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


@pytest.mark.parametrize("name", ["http://queues.example", "queues.example:80", "[::1]", "a/b", ""])
def test_a_wrong_hostname_is_refused_before_anything_happens(tmp_path: Path, name: str) -> None:
    ended = run_here("serve", "--data", tmp_path / "new.db", "--port", "0", "--hostname", name)
    assert_one_line(ended, "'--hostname'", f"{name!r} is not the name of a host", "sessions.example.com", status=2)
    assert list(tmp_path.iterdir()) == []


def test_the_connection_strings_name_an_address_that_was_given_as_hostname(tmp_path: Path) -> None:
    with Served("--memory", "--amqp-port", "0", "--json", "--hostname", "::1", cwd=tmp_path) as served:
        said = json.loads(served.line)
    assert said["connection_string"].startswith("Endpoint=http://[::1]:")
    assert said["amqp_connection_string"].startswith("Endpoint=sb://[::1]:")


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


def test_a_certificate_with_a_wrong_key_says_what_is_wrong(tmp_path: Path, certificate: tuple[Path, Path, Path]) -> None:
    chain, key, trusted = certificate
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(other))
    tls = ("serve", "--memory", "--port", "0", "--tls-cert")
    assert_one_line(run(*tls, chain, "--tls-key", other), str(other), "the key is that of another certificate")
    for wrong in ((chain, text), (text, key), (key, trusted)):
        assert_one_line(run(*tls, wrong[0], "--tls-key", wrong[1]), *map(str, wrong), "PEM format")
