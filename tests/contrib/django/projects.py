"""Runs Django projects as processes of their own: the example's, with `manage.py` or in gunicorn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import psutil

from ...conftest import eventually
from ...support.paths import ROOT
from ...support.processes import PATIENCE, environment

EXAMPLE = ROOT / "examples" / "django_project"


def surroundings(connection_string: str | None, database: Path, **more: str) -> dict[str, str]:
    """Return the environment of a project's process. Python shows every warning there, also those it hides by default."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return environment(
        connection_string,
        SHOP_DATABASE=str(database),
        PYTHONPATH=os.pathsep.join(path for path in paths if path),
        PYTHONWARNINGS="default",
        PYTHONFAULTHANDLER="1",
        PYTHONDONTWRITEBYTECODE="1",
        **more,
    )


def manage(
    *arguments: str, environ: dict[str, str], project: Path = EXAMPLE, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command of a project to its end."""
    ended = subprocess.run(
        [sys.executable, str(project / "manage.py"), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    return ended


class Running:
    """A process that runs until it is told to end, with what it prints in files.

    Attributes:
        process: The process.
        family: All processes of it that were seen.
    """

    def __init__(self, arguments: list[str], environ: dict[str, str], place: Path, cwd: Path = EXAMPLE) -> None:
        self._files = [place / f"{name}-{len(list(place.iterdir()))}" for name in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], env=environ, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.family: set[psutil.Process] = set()

    @property
    def out(self) -> str:
        """What it printed."""
        return self._files[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it complained of, or logged."""
        return self._files[1].read_text(encoding="utf-8")

    def see(self) -> set[psutil.Process]:
        """Return its children, and remember them."""
        children = set(psutil.Process(self.process.pid).children(recursive=True))
        self.family |= children
        return children

    def says(self, pattern: str) -> re.Match[str]:
        """Return where its log has `pattern`, once it has."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.err)

        eventually(lambda: found() or self.process.poll() is not None, lambda: self.err, seconds=30)
        match = found()
        assert match is not None, self.err
        return match

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; return its status, as `wait` does."""
        if self.process.poll() is None:
            self.see()
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return its status, once neither it nor any process that it started is left."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            # So that it says what each of its threads does.
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"it does not end: {self.err}") from None
        _, left = psutil.wait_procs(self.family, timeout=PATIENCE)
        assert not left
        return status

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.family |= set(psutil.Process(self.process.pid).children(recursive=True))
            self.process.kill()
        for each in self.family:
            if each.is_running():
                each.kill()
        self.process.wait()


def gunicorn(environ: dict[str, str], place: Path, *more: str) -> Running:
    """Start gunicorn with three processes of eight threads, forked from one that has loaded the example."""
    # Which older versions have not, and pass over in a file: it would be one place for all that run on this machine.
    config = place / "gunicorn.conf.py"
    config.write_text("control_socket_disable = True\n")
    many = ("--preload", "--workers", "3", "--threads", "8")
    bound = ("--config", str(config), "--bind", "127.0.0.1:0", "--graceful-timeout", "10")
    return Running(["-m", "gunicorn", *many, *bound, *more, "shop.wsgi"], environ, place)
