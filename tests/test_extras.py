"""Each extra in setup.cfg installs all packages that its documented command imports."""

from __future__ import annotations

import configparser
import shlex
from collections.abc import Iterable
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from azsession import ConfigurationError
from azsession._extras import install_command, need

from .support.paths import ROOT
from .support.processes import environment, run_python

#: Imports the modules in argv[2:], as if the packages in argv[1] were not installed.
SCRIPT = """
import importlib, sys
missing = set(sys.argv[1].split(","))

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"{name} is not installed")

sys.meta_path.insert(0, Missing())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def requirements(extra: str | None) -> list[Requirement]:
    """Return the requirements of azsession in setup.cfg, with those of an extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split("\n")
    if extra is not None:
        lines += config["options.extras_require"][extra].split("\n")
    return [Requirement(line) for line in lines if line.strip()]


def installed(wanted: Iterable[Requirement]) -> set[str]:
    """Return the names of the distributions that pip would install for these requirements."""
    found: set[str] = set()
    todo = list(wanted)
    while todo:
        requirement = todo.pop()
        if requirement.name == "azsession":
            todo += [each for extra in requirement.extras for each in requirements(extra)]
            continue
        name = requirement.name.lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or []:
            each = Requirement(line)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
                todo.append(each)
    return found


def imported_names() -> dict[str, set[str]]:
    """Return the distributions of each top-level package. `metadata.packages_distributions` of Python 3.10 misses some."""
    found: dict[str, set[str]] = {}
    for distribution in metadata.distributions():
        declared = (distribution.read_text("top_level.txt") or "").split()
        files = [file for file in distribution.files or () if file.suffix == ".py"]
        for name in declared or {file.parts[0].removesuffix(".py") for file in files}:
            found.setdefault(name, set()).add(distribution.metadata["Name"])
    return found


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        (None, ["azsession.client.provider", "azsession.processor", "azsession.contrib.consume_run", "azsession.cli"]),
        ("celery", ["azsession.cli.group", "azsession.cli.celery_dispatch", "azsession.contrib.celery"]),
        ("django", ["azsession.contrib.django.management.commands.azsession_consume"]),
        ("flask", ["azsession.contrib.flask"]),
    ],
)
def test_an_extra_installs_all_packages_that_its_command_imports(extra: str | None, modules: list[str]) -> None:
    names = installed(requirements(extra))
    packages = imported_names()
    del packages["azsession"]
    missing = [
        package
        for package, distributions in packages.items()
        if not names & {each.lower().replace("_", "-") for each in distributions}
    ]
    assert "hypothesis" in missing
    run_python("-c", SCRIPT, ",".join(missing), *modules, environ=environment(PYTHONPATH=str(ROOT)))


def test_a_missing_module_is_an_error_with_a_command_that_names_the_packages_of_the_extra() -> None:
    need("json", "cli")
    with pytest.raises(
        ConfigurationError, match=r"^no_such_module is not installed\. Install the extra 'cli' with: pip install"
    ):
        need("no_such_module", "cli")
    assert install_command("flask") == 'pip install "flask>=3"'


def test_the_command_includes_the_extras_of_an_extra_and_keeps_other_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "attrs>=25.4",
        'click>=8.1; extra == "cli"',
        'azsession[cli]; extra == "server"',
        'uvicorn[standard] (>=0.36) ; extra == "server"',
        'uvloop>=0.19; sys_platform != "win32" and extra == "server"',
        "flask>=3; extra == 'server-more'",
    ]
    monkeypatch.setattr("azsession._extras.metadata.requires", lambda name: lines)
    packages = ["click>=8.1", "uvicorn[standard](>=0.36)", "uvloop>=0.19; sys_platform != 'win32'"]
    assert shlex.split(install_command("server")) == ["pip", "install", *packages]


@pytest.mark.parametrize("lines", [None, ["attrs>=25.4"]])
def test_without_metadata_of_the_extra_the_command_is_that_of_a_clone(
    monkeypatch: pytest.MonkeyPatch, lines: list[str] | None
) -> None:
    def requires(name: str) -> list[str]:
        if lines is None:
            raise metadata.PackageNotFoundError(name)
        return lines

    monkeypatch.setattr("azsession._extras.metadata.requires", requires)
    assert install_command("cli") == 'pip install ".[cli]", in a clone of azsession'


def test_the_command_of_each_extra_names_its_requirements() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    for extra in config["options.extras_require"]:
        if extra in ("dev", "standin", "fuzz", "mutation"):
            continue
        named = {Requirement(each).name for each in shlex.split(install_command(extra))[2:]}
        direct = {each.name for each in requirements(extra)} - {each.name for each in requirements(None)}
        assert named >= direct - {"azsession"}
        assert named
