"""Standard streams that are closed, full or undecodable: one line on stderr, no traceback, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from ..support.processes import COMMAND, PATIENCE, assert_one_line, environment, run_here

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="closes file descriptors before the start")


def run_closed(
    server: AzsessionServer, *arguments: str | bytes, closed: str, flags: list[str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with some of its standard streams closed, for example ``>&-``."""
    command = [COMMAND[0], *(flags or []), *COMMAND[1:], *arguments]
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    return subprocess.run(
        words, capture_output=True, env=environment(server.connection_string), timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("option", ["", "--json"])
@pytest.mark.parametrize("closed", [">&-", "1</dev/null"])
def test_receive_completes_nothing_that_a_closed_output_cannot_show(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, closed: str, option: str
) -> None:
    azsession_provider.send_messages("q", [Message(str(n), session_id="s") for n in range(3)])
    options = [option] if option else []
    ended = run_closed(azsession_server, "receive", "q", "s", "--complete", *options, closed=closed)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.count(b"\n") == 1
    assert ended.stderr.startswith(b"azsession: ")
    [session] = azsession_provider.list_sessions("q")
    assert (session.message_count, session.locked_until) == (3, None)


@pytest.mark.parametrize("closed", ["<&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "q", "--body", "x", "--session-id", "s"),
        ("send", "q", "--file", "-"),
        ("receive", "q", "--complete", "--timeout", "0"),
        ("peek", "q", "s"),
        ("sessions", "q"),
        ("queue", "list"),
        ("dead-letters", "list", "q"),
        ("queue",),
        (),
    ],
)
def test_a_closed_stream_prints_no_traceback(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, closed: str, arguments: tuple[str, ...]
) -> None:
    azsession_provider.send_messages("q", [Message("x", session_id="s"), Message("y", session_id="dead")])
    with azsession_provider.create_session_client("q", "dead") as session:
        session.dead_letter_session("test")
    ended = run_closed(azsession_server, *arguments, closed=closed)
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    if not arguments or arguments == ("queue",):
        assert ended.returncode == 2
    elif arguments[-1] == "-" and "<&-" in closed:
        assert ended.returncode == 1
    else:
        # Without stdout, a command that cannot show its result has failed.
        assert ended.returncode == (1 if ">&- 2" in closed else 0)


def test_a_closed_stdin_is_named(azsession_server: AzsessionServer) -> None:
    ended = run_closed(azsession_server, "send", "q", "--file", "-", closed="<&-")
    assert (ended.returncode, ended.stderr) == (1, b"azsession: standard input is closed\n")


def test_no_output_of_a_library_goes_into_the_data_file(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    code = (
        "import os; os.close(1); import sys; sys.stdout = None\n"
        "from azsession.cli.streams import prepare_streams; prepare_streams()\n"
        f"file = os.open({str(data)!r}, os.O_RDWR | os.O_CREAT)\n"
        "os.write(1, b'a library writes to file 1')\n"
        "sys.exit(file in (0, 1, 2))"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), timeout=PATIENCE, check=True)
    assert data.read_bytes() == b""


def test_a_gateway_serves_without_stdin_and_stderr(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *COMMAND, "serve", "--port", "0", "--data", str(tmp_path / "data.db")]
    process = subprocess.Popen([*command, "--queue", "q"], stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stdout is not None
        text = process.stdout.readline().strip()
        with ServiceBusProvider.from_connection_string(text) as provider:
            provider.send_message("q", Message("x", session_id="s"))
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


#: The byte 0xff, as Python decodes it in an argument.
UNDECODABLE = "\udcff"


@pytest.mark.parametrize(
    "arguments",
    [
        [UNDECODABLE],
        ["receive", UNDECODABLE],
        ["receive", "q", UNDECODABLE],
        ["peek", "q", f"a{UNDECODABLE}"],
        ["send", "q", "--body", UNDECODABLE, "--session-id", "s"],
        ["send", "q", "--body", "x", "--session-id", UNDECODABLE],
        ["send", "q", "--file", f"/{UNDECODABLE}.jsonl"],
        ["sessions", "q", "--connection-string", UNDECODABLE],
        ["sessions", "q", "--ca-bundle", f"/{UNDECODABLE}"],
        ["queue", "create", UNDECODABLE],
        ["dead-letters", "delete", "q", UNDECODABLE],
        ["consume", "q", f"{UNDECODABLE}:f"],
        ["consume", "q", "os:getcwd", "--session-id", UNDECODABLE],
        ["serve", "--key", UNDECODABLE],
        ["serve", "--memory", "--queue", UNDECODABLE],
        ["demo", "--file", f"/{UNDECODABLE}"],
    ],
)
def test_an_undecodable_argument_is_wrong_usage(azsession_server: AzsessionServer, arguments: list[str]) -> None:
    assert_one_line(run_here(*arguments, connection_string=azsession_server.connection_string), status=2)


def test_the_error_of_an_undecodable_argument_is_one_line_of_a_process(azsession_server: AzsessionServer) -> None:
    command = [*map(os.fsencode, COMMAND), b"receive", b"q", b"\xff"]
    ended = subprocess.run(
        command,
        capture_output=True,
        env=environment(azsession_server.connection_string),
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count(b"\n")) == (2, b"", 1)
    assert b"lone surrogate" in ended.stderr
