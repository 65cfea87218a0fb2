"""Runs the code blocks of one page, from its top to its end, as a reader would."""

from __future__ import annotations

import configparser
import doctest
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

import yaml

from azsession import ServiceBusProvider
from azsession.cli import group

from ..conftest import eventually
from ..support.paths import ROOT
from ..support.processes import environment
from .pages import Block, blocks

#: A connection string with a placeholder. It stands for that of the page's gateway.
_PLACEHOLDER = re.compile(r"Endpoint=[^\"'\s]*\.\.[^\"'\s]*")
#: Seconds that a block may take.
_PATIENCE = 60
#: Plugins that would only take time.
_UNUSED_PLUGINS = ("schemathesis", "randomly", "xdist", "hypothesispytest", "pytest_cov", "cacheprovider")
#: Installations are the subject of tests/installing: an environment is an empty folder here, and pip does nothing.
_NO_INSTALLATION = """pip() { true; }
python3() {
    if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; touch "$3/bin/activate"; else command python3 "$@"; fi
}
"""


class PageRun:
    """A folder, a gateway's connection string and the processes of one page.

    Args:
        page: The page.
        folder: An empty folder.
        connection_string: The gateway's.
    """

    def __init__(self, page: Path, folder: Path, connection_string: str) -> None:
        self._page = page
        self._folder = folder
        self._connection_string = connection_string
        self._amqp_connection_string = ""
        self._output = ""
        self._background: list[subprocess.Popen[str]] = []
        home = folder.parent / f"{folder.name}-home"
        home.mkdir()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environ = environment(
            connection_string,
            PATH=path,
            PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]),
            PYTHONUNBUFFERED="1",
            COLUMNS="100",
            PYTEST_ADDOPTS=" ".join(f"-p no:{name}" for name in _UNUSED_PLUGINS),
            HOME=str(home),
            REPOSITORY=str(ROOT),
        )
        self._python = subprocess.Popen(
            [sys.executable, "-W", "error", Path(__file__).with_name("interpreter.py")],
            cwd=folder,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> None:
        """Run all blocks."""
        for block in blocks(self._page.read_text(encoding="utf-8")):
            self._run(block)
        self._stop()

    def _run(self, block: Block) -> None:
        try:
            self._step(block)
        except AssertionError as error:
            raise AssertionError(f"{self._page.name}, line {block.line}: {error}") from error

    def _step(self, block: Block) -> None:
        if block.mark == "not run":
            check_commands(block)
        elif block.language == "stop":
            self._stop()
        elif block.file_name is not None:
            path = self._folder / block.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        else:
            step = {
                "python": self._run_python,
                "sh": self._run_shell,
                "text": self._check_output,
                "json": self._check_json,
                "yaml": self._check_yaml,
                "ini": self._check_ini,
                "": lambda block: None,  # A drawing
            }.get(block.language)
            assert step is not None, (
                f"a block of the language {block.language!r} cannot be run; mark it: <!-- not run: why -->"
            )
            step(block)

    def _run_python(self, block: Block) -> None:
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        asked = {"code": self._filled(block.code), "line": block.line, "page": str(self._page)}
        self._python.stdin.write(json.dumps(asked) + "\n")
        self._python.stdin.flush()
        limit = threading.Timer(_PATIENCE, self._python.kill)
        limit.start()
        answer = json.loads(self._python.stdout.readline() or '{"is_done": false, "output": "no end in time"}')
        limit.cancel()
        assert answer["is_done"], answer["output"]
        self._keep_output(block, answer["output"])

    def _run_shell(self, block: Block) -> None:
        code = self._filled(block.code)
        if block.mark == "in the background":
            self._start(code)
            return
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _NO_INSTALLATION + code],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, f"status {ended.returncode}: {ended.stdout}"
        self._keep_output(block, ended.stdout)

    def _start(self, code: str) -> None:
        """Start a command that ends at a signal. The connection string of a gateway is then that of the page."""
        serves = "azsession serve" in code
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", "exec " + code.replace("azsession serve", "azsession serve --port 0")],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._background.append(process)
        if serves:
            found = printed_connection_strings(process, 1 if "--no-amqp" in code else 2)
            self._connection_string, self._amqp_connection_string = found[0], found[-1]
            self._environ["SERVICEBUS_CONNECTION_STRING"] = self._connection_string
            self._output = self._connection_string + "\n"

    def _stop(self) -> None:
        """Wait until the queues have no message, then end what runs in the background, as an operator would."""
        if not self._background:
            return
        with ServiceBusProvider.from_connection_string(self._connection_string) as provider:

            def is_empty() -> bool:
                return all(provider.get_queue(queue.name).active_count == 0 for queue in provider.list_queues())

            eventually(is_empty, "messages are left in the queues", seconds=60)
        self._output = ""
        while self._background:
            process = self._background.pop()
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=_PATIENCE)
            assert process.returncode == 0, f"status {process.returncode}: {said}"
            self._output = said + self._output

    def _keep_output(self, block: Block, output: str) -> None:
        if not block.is_hidden or output:
            self._output = output

    def _filled(self, code: str) -> str:
        def fill(found: re.Match[str]) -> str:
            return self._amqp_connection_string if "UseDevelopmentEmulator" in found[0] else self._connection_string

        return _PLACEHOLDER.sub(fill, code)

    def _check_output(self, block: Block) -> None:
        matches = doctest.OutputChecker().check_output(
            block.code, self._output, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
        assert matches, f"the output is not that of the page:\n{self._output}"

    def _check_json(self, block: Block) -> None:
        try:
            json.loads(block.code)
        except ValueError:
            for line in block.code.splitlines():
                json.loads(line)

    def _check_yaml(self, block: Block) -> None:
        assert list(yaml.safe_load_all(block.code))

    def _check_ini(self, block: Block) -> None:
        configparser.ConfigParser(strict=False, interpolation=None).read_string(block.code)

    def __enter__(self) -> PageRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._background:
            process.kill()
            process.communicate()
        try:
            self._python.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:  # A thread of a block does not end.
            self._python.kill()
            self._python.communicate()
            raise


def printed_connection_strings(process: subprocess.Popen[str], count: int) -> list[str]:
    """Return the connection strings that a gateway prints at its start: for azsession, and for Azure's SDKs."""
    assert process.stdout is not None
    said, found = "", []
    for line in process.stdout:
        said += line
        if line.startswith("Endpoint="):
            found.append(line.strip())
        if len(found) == count:
            return found
    raise AssertionError(f"the gateway did not start: {said}")


def check_commands(block: Block) -> None:
    """Check the syntax of a shell block that is not run, and the options of its commands of azsession."""
    if block.language != "sh":
        return
    subprocess.run(["bash", "-n", "-c", block.code], check=True, timeout=_PATIENCE)
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["azsession"]:
            # Options are read before --help is obeyed, so that an unknown one fails.
            assert group.run([*words[1:], "--help"]) == 0, line
