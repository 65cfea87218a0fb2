"""`azsession top` in a real terminal, in a pipe, and as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer
from tests.conftest import PATIENCE
from tests.support.processes import COMMAND, Served, assert_one_line, environment, run_here, start


@pytest.fixture
def line(azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider) -> str:
    azsession_provider.send_messages("orders", [Message("x", session_id=f"s{n % 3}") for n in range(10)])
    return azsession_server.connection_string


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, line: str, *arguments: str, width: int = 100, height: int = 24) -> None:
        self.master, slave = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            [*COMMAND, "top", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={name: value for name, value in environment(line, TERM="xterm").items() if name != "COLUMNS"},
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_until(self, pattern: str, seconds: float = 6 * PATIENCE) -> str:
        """Return the new output up to a match, without escape sequences."""
        deadline = time.monotonic() + seconds
        seen = ""
        while not re.search(pattern, seen):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} is not shown: {seen[-2000:]}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    piece = os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    piece = ""
                assert piece, f"the command ended before {pattern!r}: {seen[-2000:]}"
                self.output += piece
                seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output)
        self.output = ""
        return seen

    def wait(self) -> int:
        """Wait for the end. Read what the command writes meanwhile."""
        while self.process.poll() is None:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.output += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    break
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


def test_q_ends_it_and_restores_the_terminal(line: str) -> None:
    with Terminal(line, "--interval", "0.2") as terminal:
        assert "orders" in terminal.read_until(r"s2 .* 3 ")
        terminal.press(b"c")
        terminal.read_until("sorted by count")
        terminal.press(b"a")
        terminal.read_until("sorted by age")
        terminal.press(b"q")
        assert terminal.wait() == 0
        assert "\x1b[?1049l" in terminal.output
        assert termios.tcgetattr(terminal.master) == terminal.before


def test_a_new_size_of_the_terminal_counts_at_once(line: str) -> None:
    with Terminal(line, width=120) as terminal:
        terminal.read_until("change/s")
        terminal.resize(60, 12)
        # The rest of a wide view can come before it.
        _, title, narrow = terminal.read_until(r"orders +10 +0 +3 +0").rpartition("azsession top")
        assert all(len(text) <= 60 for text in (title + narrow).splitlines())
        terminal.resize(120, 30)
        terminal.read_until("change/s")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_and_restores_the_terminal(line: str, number: int, status: int) -> None:
    with Terminal(line) as terminal:
        terminal.read_until("orders")
        # The terminal is not the controlling one of the process, so that its Ctrl-C reaches nobody.
        terminal.process.send_signal(number)
        assert terminal.wait() == status
        assert termios.tcgetattr(terminal.master) == terminal.before


def test_a_server_that_goes_away_is_reported_and_noticed_when_it_is_back(tmp_path: Path) -> None:
    key = "root:c2VjcmV0:Manage"
    data = tmp_path / "data.db"
    with Served("--data", data, "--key", key, "--queue", "orders") as first:
        port = re.search(r":(\d+)/", first.line)
        assert port is not None
        with Terminal(first.line, "--interval", "0.2", width=160) as terminal:
            terminal.read_until("orders")
            first.end()
            terminal.read_until(r"numbers of \d+ s ago: no answer")
            again = start("serve", "--port", port[1], "--data", data, "--key", key, "--queue", "later")
            try:
                seen = terminal.read_until("later")
                assert "no answer" not in seen[seen.rindex("azsession top") :]
                terminal.press(b"q")
                assert terminal.wait() == 0
            finally:
                again.terminate()
                again.communicate()


def test_without_a_terminal_it_prints_the_numbers_once(line: str) -> None:
    ended = run_here("top", connection_string=line)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].split()[:2] == ["queue", "active"]
    assert lines[1].split()[:2] == ["orders", "10"]
    assert [text.split()[:3] for text in lines[4:7]] == [["s0", "orders", "4"], ["s1", "orders", "3"], ["s2", "orders", "3"]]


def test_json_is_one_line_for_each_update(line: str) -> None:
    ended = run_here("top", "--json", "--count", "3", "--interval", "0.1", "--queue", "orders", connection_string=line)
    found = [json.loads(text) for text in ended.stdout.splitlines()]
    assert [one["queues"][0]["active_count"] for one in found] == [10, 10, 10]
    assert "active_change_per_second" not in found[0]["queues"][0]
    assert found[2]["queues"][0]["active_change_per_second"] == 0


def test_the_reader_of_the_json_can_leave(line: str) -> None:
    process = start("top", "--json", "--interval", "0.1", connection_string=line)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["queues"]
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_an_error_of_the_first_update_ends_it(line: str) -> None:
    assert_one_line(run_here("top", "--queue", "nowhere", connection_string=line), "nowhere")
    wrong = line.replace("SharedAccessKey=", "SharedAccessKey=x")
    assert_one_line(run_here("top", "--json", connection_string=wrong), "SharedAccessSignature")


@pytest.fixture
def limited() -> Iterator[str]:
    with Served("--memory", "--queue", "orders", "--key", "app:c2VjcmV0:Listen@orders") as served:
        yield served.line


def test_a_key_with_listen_can_watch_its_queue(limited: str) -> None:
    assert run_here("top", "--queue", "orders", connection_string=limited).returncode == 0
    assert_one_line(run_here("top", connection_string=limited), "lacks the right Manage")
