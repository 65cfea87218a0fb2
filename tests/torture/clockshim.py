"""Steps the wall clock of real processes, while the monotonic one goes on: with a small C library that they load.

``environment(file)`` returns what to add to a process's environment, and ``set_offset(file, seconds)`` steps the wall clock
of every process that was started with it, at once. Where that cannot be had (no Linux, no C compiler, a Python that asks the
kernel past the C library), `unavailable` says why. The tests in `tests/hostile` and the torture use it.
"""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
VARIABLE = "AZSESSION_TEST_CLOCK"
#: Seconds that the trial of the library steps, to see that Python's clocks are shifted by it.
_TRIAL = 36000.0
_TRIAL_CODE = "import time, datetime; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"


def environment(offset_file: Path) -> dict[str, str]:
    """Return the variables for a process whose wall clock `offset_file` steers; the file is made if it is not there."""
    if not offset_file.exists():
        set_offset(offset_file, 0.0)
    loaded = os.environ.get("LD_PRELOAD", "")
    library = _library()
    if library is None:
        raise RuntimeError(unavailable())
    return {"LD_PRELOAD": f"{library} {loaded}".strip(), VARIABLE: str(offset_file)}


def set_offset(offset_file: Path, seconds: float) -> None:
    """Have the wall clock of the processes be ahead of the real one by so many seconds; less than 0 is behind it."""
    data = struct.pack("=q", round(seconds * 1e9))
    # In place, and in one write: the file is mapped by those who read it.
    file = os.open(offset_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, data, 0)
    finally:
        os.close(file)


@functools.cache
def unavailable() -> str:
    """Return why the wall clock cannot be stepped here; empty where it can."""
    if not sys.platform.startswith("linux"):
        return "the wall clock of a process is stepped on Linux only"
    if _library() is None:
        return "there is no C compiler to make the library that steps the wall clock"
    with tempfile.TemporaryDirectory() as folder:
        offset_file = Path(folder) / "offset"
        set_offset(offset_file, _TRIAL)
        real, _, monotonic = _clocks({})
        wall, date, steady = _clocks(environment(offset_file))
    if abs(wall - real - _TRIAL) > 600 or abs(date - real - _TRIAL) > 600 or abs(steady - monotonic) > 600:
        return "this Python's clocks do not go through the C library"
    return ""


def needs_clock_steps() -> None:
    """Skip the test where the wall clock cannot be stepped."""
    if unavailable():
        pytest.skip(unavailable())


def _clocks(variables: dict[str, str]) -> tuple[float, float, float]:
    """Return the wall clock, as Python's two modules tell it, and the monotonic one of a process."""
    command = [sys.executable, "-c", _TRIAL_CODE]
    run = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=True)
    wall, date, steady = map(float, run.stdout.split())
    return wall, date, steady


@functools.cache
def _library() -> Path | None:
    """Return the compiled library; it is kept for the life of this process."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="clockshim-")
    _kept.append(folder)
    library = Path(folder.name) / "clockshim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-pthread"]
    made = subprocess.run(command, capture_output=True, timeout=120, check=False)
    return library if made.returncode == 0 else None


#: Its folders go with this process.
_kept: list[tempfile.TemporaryDirectory[str]] = []
