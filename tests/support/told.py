"""Lets a message handler in another process wait for its test."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

#: The text of the file that lets a handler go on only when its processor has noticed a signal and stops.
WHEN_STOPPING = "when the processor stops"


def tell_when_stopping(report: Path) -> None:
    """Let the handler that writes a report go on when its processor stops. The handler never sees an empty file."""
    draft = report.with_name(f"{report.name}.draft")
    draft.write_text(WHEN_STOPPING, encoding="utf-8")
    draft.rename(f"{report}.go")


def wait_until_told() -> None:
    """Wait for the file ``$REPORT.go``, and with the text `WHEN_STOPPING` also until the processor of this process stops."""
    file = Path(os.environ["REPORT"] + ".go")
    while not file.exists() or (file.read_text(encoding="utf-8") == WHEN_STOPPING and not _is_stopping()):
        time.sleep(0.01)


def _is_stopping() -> bool:
    """Return whether `SessionProcessor.run`, which the main thread runs, has begun to stop. It tells nobody else."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_code.co_name != "_wait_for_end":
        frame = frame.f_back
    return frame is None or frame.f_locals["slots"].stopping
