"""Loading the command: what it imports, and the extras that it names when a package is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from azsession._extras import install_command
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.processes import PATIENCE, assert_one_line, environment


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=PATIENCE, check=False
    )


def test_importing_azsession_loads_neither_click_nor_rich() -> None:
    ended = _python("import sys, azsession, azsession.cli; print({'click', 'rich', 'uvicorn'} & set(sys.modules))")
    assert ended.stdout == "set()\n"


@pytest.mark.parametrize("module", ["requests", "attrs", "click", "rich"])
def test_ctrl_c_while_the_command_is_loading_ends_it_without_a_traceback(tmp_path: Path, module: str) -> None:
    loading = tmp_path / "loading"
    (tmp_path / f"{module}.py").write_text(f"import pathlib, time\npathlib.Path({str(loading)!r}).touch()\ntime.sleep(60)\n")
    command = Path(sys.executable).with_name("azsession")
    environ = {**environment(), "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [command, "queue", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        try:
            eventually(loading.exists, lambda: f"{module} was not loaded", PATIENCE)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_the_command_names_the_extra_to_install_in_one_line(missing: str) -> None:
    ended = _python(f"import sys; sys.modules[{missing!r}] = None; from azsession.cli import main; main()")
    assert_one_line(ended, missing, install_command("cli"))


def test_serve_names_the_extra_to_install_in_one_line() -> None:
    ended = _python(
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['azsession', 'serve', '--memory'];"
        "from azsession.cli import main; main()"
    )
    assert_one_line(ended, "uvicorn", install_command("server"))


def test_send_needs_no_server_libraries(azsession_server: AzsessionServer) -> None:
    ended = _python(
        "import sys; sys.modules['uvicorn'] = None; "
        f"sys.argv = ['azsession', 'send', 'q', '--body', 'x', '--session-id', 's', '--connection-string', "
        f"{azsession_server.connection_string!r}]; from azsession.cli import main; main()"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
