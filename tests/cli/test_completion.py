"""The lines of docs/commands.md complete the command in real shells. zsh and fish are optional."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support.paths import ROOT
from ..support.processes import PATIENCE, environment

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
#: The documented line of each shell.
LINES = {
    shell: line.replace("\\|", "|")
    for shell, line in re.findall(r"^\| (bash|zsh|fish)\b[^|]* \| [^|]* \| `(.*)` \|$", PAGE, re.MULTILINE)
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds the command, in an empty home folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "azsession"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from azsession.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return environment(PATH=path, PYTHONPATH=str(ROOT), HOME=str(tmp_path), ZDOTDIR=str(tmp_path), TERM="dumb")


def run(*command: str, environ: dict[str, str], cwd: Path) -> list[str]:
    ended = subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("azsession se", ["send", "serve", "sessions"]),
        ("azsession dead-letters re", ["resubmit"]),
        ("azsession serve --max-w", ["--max-waiting"]),
    ],
)
def test_bash_completes_commands_and_options(
    words: str, completions: list[str], environ: dict[str, str], tmp_path: Path
) -> None:
    # As bash itself calls the function when Tab is pressed.
    script = f"""
        {LINES["bash"]}
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        called=$(complete -p azsession | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        $called azsession
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert run("bash", "--norc", "-c", script, environ=environ, cwd=tmp_path) == completions


def test_fish_completes_commands(environ: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("needs fish (Debian: fish)")
    file = tmp_path / ".config" / "fish" / "completions" / "azsession.fish"
    file.parent.mkdir(parents=True)
    file.write_text(LINES["fish"] + "\n")
    lines = run("fish", "-c", 'complete -C "azsession se"', environ=environ, cwd=tmp_path)
    assert {"send", "serve", "sessions"} <= set(lines)


def test_zsh_completes_a_command(environ: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh (Debian: zsh)")
    (tmp_path / ".zshrc").write_text(f"autoload -U compinit; compinit -u\n{LINES['zsh']}\nPROMPT='ready> '\n")
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("zsh", ["zsh", "-i"], environ)
    try:
        _read_until(terminal, "ready> ")
        os.write(terminal, b"azsession dead-letters resu\t")
        assert "resubmit" in _read_until(terminal, "resubmit")
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(child, 0)


def _read_until(terminal: int, text: str) -> str:
    """Read the output of a terminal until it has this text."""
    output, end = "", time.monotonic() + PATIENCE
    while text not in output:
        readable, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert readable, f"no {text!r} in {output!r}"
        output += os.read(terminal, 4096).decode(errors="replace")
    return output
