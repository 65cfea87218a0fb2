"""Steps the wall clock of processes with a small C library that they load. The monotonic clock continues.

``environment(file)`` returns the environment variables for a process, and ``set_offset(file, seconds)`` steps the wall clock
of all processes that were started with them. This needs Linux, a C compiler, and a Python that reads its clocks through the C
library; `unavailable` returns the missing part. Used by `tests/hostile` and by torture runs.
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
#: Seconds of the step that tests whether Python's clocks follow the library.
_TRIAL = 36000.0
_TRIAL_CODE = "import time, datetime; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"


def environment(offset_file: Path) -> dict[str, str]:
    """Return the variables for a process whose wall clock follows `offset_file`. Create the file if it does not exist."""
    if not offset_file.exists():
        set_offset(offset_file, 0.0)
    loaded = os.environ.get("LD_PRELOAD", "")
    library = _library()
    if library is None:
        raise RuntimeError(unavailable())
    return {"LD_PRELOAD": f"{library} {loaded}".strip(), VARIABLE: str(offset_file)}


def set_offset(offset_file: Path, seconds: float) -> None:
    """Set the wall clock of the processes ahead of the real one by some seconds, or behind it if they are negative."""
    data = struct.pack("=q", round(seconds * 1e9))
    # Overwrite the file in one write, because the processes have mapped it.
    file = os.open(offset_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, data, 0)
    finally:
        os.close(file)


@functools.cache
def unavailable() -> str:
    """Return why the wall clock cannot be stepped here, or an empty text if it can."""
    if not sys.platform.startswith("linux"):
        return "stepping the wall clock of a process needs Linux"
    if _library() is None:
        return "stepping the wall clock of a process needs a C compiler"
    with tempfile.TemporaryDirectory() as folder:
        offset_file = Path(folder) / "offset"
        set_offset(offset_file, _TRIAL)
        real, _, monotonic = _clocks({})
        wall, date, steady = _clocks(environment(offset_file))
    if abs(wall - real - _TRIAL) > 600 or abs(date - real - _TRIAL) > 600 or abs(steady - monotonic) > 600:
        return "this Python does not read its clocks through the C library"
    return ""


def needs_clock_steps() -> None:
    """Skip the test if the wall clock cannot be stepped."""
    if unavailable():
        pytest.skip(unavailable())


def _clocks(variables: dict[str, str]) -> tuple[float, float, float]:
    """Return the wall clock of a process, as the modules time and datetime read it, and its monotonic clock."""
    command = [sys.executable, "-c", _TRIAL_CODE]
    run = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=True)
    wall, date, steady = map(float, run.stdout.split())
    return wall, date, steady


@functools.cache
def _library() -> Path | None:
    """Return the compiled library. It exists until this process ends."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="clockshim-")
    _kept.append(folder)
    library = Path(folder.name) / "clockshim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-pthread"]
    made = subprocess.run(command, capture_output=True, timeout=120, check=False)
    return library if made.returncode == 0 else None


#: Temporary folders that are removed when this process ends.
_kept: list[tempfile.TemporaryDirectory[str]] = []
