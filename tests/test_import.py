"""`import azsession`: which modules it loads, and imports at first use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import azsession
from azsession import forks


def test_import_loads_no_optional_package_and_no_processor() -> None:
    code = "import sys, azsession; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
    assert {"requests", "attrs", "tenacity"} <= loaded
    assert not {name.split(".")[0] for name in loaded} & {"azure", "click", "rich", "falcon", "cheroot", "sqlite3"}
    assert "azsession.processor" not in loaded


def test_every_public_name_exists_and_is_listed() -> None:
    assert set(azsession.__all__) <= set(dir(azsession))
    assert all(getattr(azsession, name) is not None for name in azsession.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'azsession' has no attribute 'SessionProcesor'"):
        azsession.SessionProcesor  # noqa: B018


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_an_import_at_first_use() -> None:
    importing, finish = threading.Event(), threading.Event()

    def import_slowly() -> None:
        with forks.import_lock:
            importing.set()
            finish.wait(20)

    thread = threading.Thread(target=import_slowly)
    thread.start()
    assert importing.wait(20)
    timer = threading.Timer(0.2, finish.set)
    timer.start()
    child = os.fork()
    if child == 0:
        # No other thread holds the lock here, and this one can take it.
        os._exit(0 if finish.is_set() and forks.import_lock.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join(20)
    timer.join(20)
