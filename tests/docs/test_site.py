"""The documentation site builds without a warning, loads nothing from other hosts, and its links work on a code host, too."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ..support.paths import ROOT
from ..support.processes import environment

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
        timeout=100,
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


@pytest.mark.parametrize(
    ("page", "text", "complaint"),
    [
        ("docs/new.md", "# A page that the navigation lacks\n", "new.md"),
        ("docs/settings.md", "\n[a page that is missing](missing.md)\n", "missing.md"),
        ("docs/settings.md", "\n[an anchor that is missing](azure.md#nowhere)\n", "#nowhere"),
        ("docs/settings.md", "\n![an image that is missing](images/none.png)\n", "images/none.png"),
        ("docs/settings.md", "\n[a file that is no page](../tests/conftest.py)\n", "tests/conftest.py"),
        ("docs/settings.md", "\n[an example that is missing](../examples/none.py)\n", "none"),
        ("README.md", "\n[an anchor that is missing](docs/azure.md#nowhere)\n", "#nowhere"),
        ("azsession/queues.py", "", ""),
    ],
)
def test_the_build_fails_for(sources: Path, page: str, text: str, complaint: str) -> None:
    with (sources / page).open("a", encoding="utf-8") as file:
        file.write(text)
    status, warnings = build(sources, sources / "site")
    assert status == (1 if text else 0), warnings
    assert complaint in "\n".join(warnings)
