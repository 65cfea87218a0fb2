"""Every code block of every page is run, and Python is formatted as the package is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from azsession.testing import AzsessionServer

from ..support.paths import ROOT
from .page_run import PageRun, check_commands
from .pages import PAGES, Block, blocks, run_by

#: The number of blocks that are marked as not run, for each page. The mark says why.
NOT_RUN = {
    "azure.md": 1,
    "commands.md": 1,
    "deployment.md": 3,
    "emulator.md": 3,
    "explorer.md": 1,
    "gateways.md": 2,
    "migrating.md": 1,
    "monitoring.md": 3,
    "telemetry.md": 2,
    "troubleshooting.md": 1,
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT / "docs").as_posix()


@pytest.mark.timeout(300)  # A page starts up to a dozen processes.
@pytest.mark.parametrize("page", [page for page in PAGES if run_by(page.read_text(encoding="utf-8")) is None], ids=name_of)
def test_the_blocks_of_a_page_run(page: Path, azsession_server: AzsessionServer, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    with PageRun(page, folder, azsession_server.connection_string) as run:
        run.run()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if run_by(page.read_text(encoding="utf-8")) is not None], ids=name_of
)
def test_the_file_that_runs_a_page_reads_it(page: Path) -> None:
    tests = run_by(page.read_text(encoding="utf-8"))
    assert tests is not None
    assert f'"{page.name}"' in tests.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if run_by(page.read_text(encoding="utf-8")) is not None], ids=name_of
)
def test_the_shell_commands_of_a_page_with_tests_of_its_own_are_valid(page: Path) -> None:
    commands = [block for block in blocks(page.read_text(encoding="utf-8")) if block.language == "sh"]
    assert commands
    for block in commands:
        check_commands(block)


def test_only_these_blocks_are_not_run() -> None:
    marked = Counter(
        name_of(page) for page in PAGES for block in blocks(page.read_text(encoding="utf-8")) if block.mark == "not run"
    )
    assert marked == NOT_RUN


def test_the_python_of_the_pages_is_formatted_and_clean(tmp_path: Path) -> None:
    for page in [*PAGES, ROOT / "README.md"]:
        for block in blocks(page.read_text(encoding="utf-8")):
            if block.language == "python":
                write(tmp_path / f"{page.stem.replace('-', '_').lower()}_{block.line}.py", block)
    options = ["--config", str(ROOT / "pyproject.toml")]
    # Blocks use names of earlier blocks, and print. Django has its own assertions.
    ignored = "F403,F405,F821,F811,E402,T201,S,B018,N,I001,F401,RUF,PT009,SIM117,PERF203"
    for command in (["format", "--diff"], ["check", "--output-format", "concise", "--extend-ignore", ignored]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *options, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def write(path: Path, block: Block) -> None:
    path.write_text(block.code, encoding="utf-8")
