"""`import azsession`: which modules it loads, and its public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import azsession


def _loaded_by(code: str) -> set[str]:
    code = f"import sys; {code}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_a_provider_loads_no_optional_package_and_no_processor() -> None:
    loaded = _loaded_by("from azsession import ServiceBusProvider, Message, QueueSettings")
    assert {"requests", "attrs", "tenacity"} <= loaded
    assert not {name.split(".")[0] for name in loaded} & {"azure", "click", "rich", "falcon", "uvicorn", "sqlite3"}
    assert "azsession.processor" not in loaded


@pytest.mark.parametrize("module", ["azsession", "azsession.cli"])
def test_the_package_alone_loads_no_other_package(module: str) -> None:
    # The command handles Ctrl-C only after this import, so it must be short.
    new = _loaded_by(f"import {module}") - _loaded_by("import contextlib, importlib, signal, threading, typing, weakref")
    assert new == {"azsession", "azsession.forks", module}


def test_every_public_name_exists_and_is_listed() -> None:
    assert set(azsession.__all__) <= set(dir(azsession))
    assert all(getattr(azsession, name) is not None for name in azsession.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'azsession' has no attribute 'SessionProcesor'"):
        azsession.SessionProcesor  # noqa: B018
