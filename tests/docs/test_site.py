"""The documentation site builds without a warning, loads nothing from other hosts, and its links work on a code host, too."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import azsession

from ..support.paths import ROOT
from ..support.processes import environment

#: Building the site takes long on a busy machine.
pytestmark = pytest.mark.timeout(400)

#: The files and folders from which the site is built.
SOURCES = (
    *(".mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "azsession", "docs", "examples"),
    *("tests/README.md", "tests/torture/README.md", "tests/load/README.md", "benchmarks/README.md"),
)
#: Attributes with which an element loads something.
LOADING = {"src", "srcset", "poster", "data"}


def build(place: Path, site: Path) -> tuple[int, list[str]]:
    """Build the site as .ci/run does. Return the exit status and the warnings."""
    # With --quiet, --strict would do nothing.
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ".mkdocs.yml", "--site-dir", site],
        cwd=place,
        env=environment(NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ended.returncode, [line for line in ended.stderr.splitlines() if not line.startswith("INFO ")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    assert build(ROOT, folder) == (0, [])
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of all that the site is built from."""
    for name in SOURCES:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return tmp_path


class Loads(HTMLParser):
    """Collects the addresses from which a page loads scripts, styles, images and the like."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if value and (name in LOADING or (tag, name) == ("link", "href"))]


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.addresses
        assert [address for address in loads.addresses if re.match(r"(\w+:)?//", address)] == [], page.name
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")) == [], style.name


def test_comments_of_the_sources_are_not_in_the_site(site: Path) -> None:
    assert "the demo" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- the demo" not in (site / "index.html").read_text(encoding="utf-8")


def test_the_reference_has_every_public_method(site: Path) -> None:
    listed = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]
    names = {line.split()[0] for line in zlib.decompress(listed).decode().splitlines()}
    for name in set(azsession.__all__) - {"__version__"}:
        cls = getattr(azsession, name)
        methods = [each for each in dir(cls) if not each.startswith("_") and not hasattr(BaseException, each)]
        expected = {f"azsession.{name}.{each}" for each in methods if callable(getattr(cls, each))}
        assert expected - names == set()
        assert f"azsession.{name}" in names


#: Faults, by the file that has them, with a part of the warning.
FAULTS = [
    ("docs/new.md", "# A page that the navigation lacks\n", "new.md"),
    ("docs/settings.md", "[a page that is missing](missing.md)", "'missing.md'"),
    ("docs/settings.md", "[an anchor that is missing](azure.md#nowhere)", "'azure.md#nowhere'"),
    ("docs/settings.md", "![an image that is missing](images/none.png)", "'images/none.png'"),
    ("docs/settings.md", "[a file that is no page](../tests/conftest.py)", "'tests/conftest.py'"),
    ("docs/settings.md", "[an example that is missing](../examples/none.py)", "'examples.md#none'"),
    ("README.md", "[an anchor that is missing](docs/servers.md#nowhere)", "'servers.md#nowhere'"),
]


def append(page: Path, text: str) -> None:
    with page.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")


def test_the_build_fails_for_a_name_that_does_not_exist(sources: Path) -> None:
    append(sources / "docs" / "settings.md", "::: azsession.no_such_name")
    status, warnings = build(sources, sources / "site")
    assert status == 1
    assert "azsession.no_such_name" in "\n".join(warnings)


def test_the_build_fails_and_names_each_fault(sources: Path) -> None:
    for page, text, _ in FAULTS:
        append(sources / page, text)
    status, warnings = build(sources, sources / "site")
    assert status == 1
    assert [complaint for *_, complaint in FAULTS if complaint not in "\n".join(warnings)] == []
