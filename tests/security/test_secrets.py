"""No output of a full run shows a secret. It searches all streams, logs and files of real processes at DEBUG level."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import attrs
import pytest

from ..support.processes import PATIENCE, environment

#: The azsession command, with all logs in a file.
_LOGGED = (
    "import logging, sys; logging.basicConfig(level=logging.DEBUG, filename=sys.argv.pop(1)); "
    "from azsession.cli import main; sys.exit(main())"
)


#: The first test runs many processes.
pytestmark = pytest.mark.timeout(500)


@attrs.frozen
class Run:
    """The output of the processes of one run by its origin, and the secrets that they used."""

    written: dict[str, str]
    secrets: dict[str, list[str]]
    connection_string: str


def command(
    folder: Path, name: str, *arguments: str, connection_string: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _LOGGED, str(folder / f"{name}.log"), *arguments],
        input="cli-body-secret-zX8",
        text=True,
        capture_output=True,
        env=environment(connection_string, PYTHONUNBUFFERED="1"),
        cwd=folder,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a gateway, a program with all operations, and commands."""
    folder = tmp_path_factory.mktemp("secrets")
    gateway = subprocess.Popen(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            _LOGGED,
            str(folder / "gateway.log"),
            "serve",
            "--port",
            "0",
            "--data",
            "data.db",
            "--queue",
            "orders",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(),
    )
    assert gateway.stdout is not None
    connection_string = gateway.stdout.readline().strip()
    assert gateway.stdout.readline().startswith("Endpoint=sb://")  # For Azure's SDKs. It contains the key, too.
    written: dict[str, str] = {}
    try:
        program = subprocess.run(
            [sys.executable, "-m", "tests.security.secrets_run", str(folder)],
            input=connection_string,
            text=True,
            capture_output=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            timeout=4 * PATIENCE,
            check=False,
        )
        assert program.stdout.endswith("all of it was done\n"), program.stderr[-3000:]
        assert program.returncode == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in program.stderr
        secrets = json.loads((folder / "secrets").read_text())
        (folder / "secrets").unlink()
        written |= {"the program's stdout": program.stdout, "the program's stderr": program.stderr}
        for arguments in (
            ("send", "orders", "--session", "cli"),
            ("peek", "orders", "cli", "--json"),
            ("dead-letters", "list", "orders", "--json"),
            ("receive", "orders", "--session", "cli", "--json"),
        ):
            done = command(folder, arguments[0], *arguments, connection_string=connection_string)
            written[f"stderr of {' '.join(arguments)}"] = done.stderr
            # These commands print bodies on purpose.
            written[f"stdout of {' '.join(arguments)}"] = done.stdout.replace("body", "")
        wrong = connection_string[:-8] + "wrongkey"
        secrets["key"].append(wrong.rpartition("SharedAccessKey=")[2])
        done = command(folder, "wrong", "sessions", "orders", connection_string=wrong)
        assert done.returncode == 1
        written["stderr of a refused command"] = done.stderr + done.stdout
        done = command(folder, "malformed", "serve", "--port", "0", "--memory", "--key", f"root:{secrets['key'][0]}:Sned")
        assert done.returncode != 0
        written["stderr of a wrong serve"] = done.stderr + done.stdout
    finally:
        gateway.send_signal(signal.SIGABRT)
        out, err = gateway.communicate(timeout=PATIENCE)
    written |= {"the gateway's stdout, after the connection strings": out, "the gateway's stderr": err}
    assert "Fatal Python error: Aborted" in err
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("data.db"):
            written[file.name] = file.read_text(errors="replace")
    return Run(written, secrets, connection_string)


def forms(secret: str) -> set[str]:
    """Return the secret as it is and in its encodings."""
    packed = base64.b64encode(secret.encode()).decode()
    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        packed.rstrip("="),
        packed.translate(str.maketrans("+/", "-_")).rstrip("="),
    }


@pytest.mark.parametrize(
    "what", ["key", "signature", "bearer token", "body", "state", "lock token", "lock id", "lock handle", "receipt"]
)
def test_no_output_shows_the_secret(what: str, run: Run) -> None:
    found: list[str] = []
    assert run.secrets[what]
    for secret in run.secrets[what]:
        for form in forms(secret):
            for name, text in run.written.items():
                at = text.find(form)
                if at >= 0:
                    found.append(f"{name}: ...{text[max(0, at - 150) : at + len(form) + 40]!r}")
    assert not found, "\n".join(found[:40])


def test_the_run_wrote_output_that_could_show_secrets(run: Run) -> None:
    program = run.written["the program's stderr"]
    assert "urllib3.connectionpool" in program
    assert '"DELETE /orders/sessions/s1/messages/... HTTP/1.1" 204' in program
    assert "Traceback" in program
    assert "locals" in program
    assert "never closed" in program
    assert not re.search("sig=[A-Za-z0-9%+/]{20}", "".join(run.written.values()))
    assert "the handler failed" in program
