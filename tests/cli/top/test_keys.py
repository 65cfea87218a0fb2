"""Single keys from a terminal, and from a standard input that is not a terminal."""

from __future__ import annotations

import os
import pty
import sys
import termios
import time

import pytest

from azsession.cli.top.keys import Keys


def test_a_key_is_read_without_a_line_end_and_the_terminal_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(slave)
        with Keys() as keys:
            assert not termios.tcgetattr(slave)[3] & termios.ICANON
            os.write(master, b"q")
            assert keys.wait(30) == "q"
            assert keys.wait(0.01) == ""
        assert termios.tcgetattr(slave) == before
    os.close(master)


def test_without_a_terminal_there_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as null:
        monkeypatch.setattr(sys, "stdin", null)
        started = time.monotonic()
        with Keys() as keys:
            assert keys.wait(0.05) == ""
        assert time.monotonic() - started >= 0.05
