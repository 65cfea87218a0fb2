"""`import azsession`: which modules it loads, and its public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import azsession


def test_import_loads_no_optional_package_and_no_processor() -> None:
    code = "import sys, azsession; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
    assert {"requests", "attrs", "tenacity"} <= loaded
    assert not {name.split(".")[0] for name in loaded} & {"azure", "click", "rich", "falcon", "uvicorn", "sqlite3"}
    assert "azsession.processor" not in loaded


def test_every_public_name_exists_and_is_listed() -> None:
    assert set(azsession.__all__) <= set(dir(azsession))
    assert all(getattr(azsession, name) is not None for name in azsession.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'azsession' has no attribute 'SessionProcesor'"):
        azsession.SessionProcesor  # noqa: B018
