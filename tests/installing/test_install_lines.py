"""The install lines of the documentation and of the errors about missing extras work in new virtual environments.

They install from the package index that pip is configured for.
"""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest

from ..support.paths import ROOT
from .conftest import Environment

#: The Markdown files for users. `.ci/run` runs the lines for developers, in CONTRIBUTING.md.
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINE = re.compile(r"\bpip (?:install|wheel)\b[^`\n&]*")
#: The extras for developers of azsession. `.ci/run` installs them.
DEVELOPERS = {"dev", "docs", "standin", "fuzz", "mutation"}


def documented_lines() -> dict[str, str]:
    """Return each command of the documentation that installs something of azsession, and the file that has it."""
    found = {}
    for path in DOCUMENTS:
        for line in _LINE.findall(path.read_text(encoding="utf-8")):
            found.setdefault(line.strip(), path.name)
    return found


def users_extras() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return set(config["options.extras_require"]) - DEVELOPERS


def needed() -> list[tuple[str, str]]:
    """Return the module and the extra of each call of `need` in the package."""
    calls = set()
    for path in sorted((ROOT / "azsession").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "need":
                words = [each.value for each in node.args if isinstance(each, ast.Constant)]
                if len(words) == 2:
                    calls.add((str(words[0]), str(words[1])))
    return sorted(calls)


LINES = documented_lines()
#: How the lines name the clone, for example ``".[server]"``. They are resolved only, because an installation takes longer.
FROM_CLONE = sorted({found[1] for line in LINES if (found := re.search(r'(?:\s)("\.\[[a-z,]*\]"|\.)$', line))})


def test_every_install_line_of_the_documentation_names_the_clone_a_wheel_or_another_package() -> None:
    assert len(LINES) > 6
    wrong = {line: name for line, name in LINES.items() if re.search(r'["\s]azsession\b(?!-0)', line)}
    assert wrong == {}, "azsession is on no package index"


def test_the_page_about_installing_lists_every_extra_for_users() -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    rows = re.findall(r'^\| `(\w+)` \| `pip install "\.\[(\w+)\]"` \|', page, re.MULTILINE)
    assert {extra for extra, _ in rows} == users_extras()
    assert all(extra == other for extra, other in rows)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", [place for place in FROM_CLONE if not DEVELOPERS & set(re.findall(r"\w+", place))])
def test_pip_resolves_each_install_line_in_a_clone(place: str, clone: Path, untouched: Environment) -> None:
    said = untouched.run(f"pip install --dry-run {place}", clone)
    assert "does not provide the extra" not in said
    assert re.search(r"^Would install .*\bazsession-", said, re.MULTILINE)


@pytest.mark.timeout(300)
def test_the_page_about_installing_installs_the_command_from_a_wheel(clone: Path, fresh: Environment) -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    section = page.partition("## From a wheel")[2]
    commands = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert commands is not None
    fresh.run(commands[1], clone)
    assert "Run a gateway" in fresh.run("azsession --help", fresh.bin.parent)


@pytest.mark.timeout(300)
def test_the_command_in_each_error_about_a_missing_extra_installs_it(clone: Path, fresh: Environment) -> None:
    fresh.run("pip install -q .", clone)
    elsewhere = fresh.bin.parent
    calls = needed()
    assert {extra for _, extra in calls} >= {"cli", "server", "websockets", "celery", "flask"}
    missing = 0
    for module, extra in calls:
        code = f"from azsession._extras import need; need({module!r}, {extra!r})"
        checked = f'python -c "{code}" || true'
        said = fresh.run(checked, elsewhere)
        if said:
            missing += 1
            command = said.strip().rpartition("with: ")[2]
            fresh.run(command.replace("pip install", "pip install -q", 1), elsewhere)
            assert fresh.run(checked, elsewhere) == "", command
    assert missing > 3
    assert "Run a gateway" in fresh.run("azsession --help", elsewhere)
