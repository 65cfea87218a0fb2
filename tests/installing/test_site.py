"""The README's commands for the documentation site work with the extra `docs` alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..support.paths import ROOT
from .conftest import Environment


@pytest.mark.timeout(300)
def test_the_extra_docs_has_all_that_the_site_needs(clone: Path, fresh: Environment, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.search(r'`(pip install "\.\[docs\]") && (mkdocs serve -f \.mkdocs\.yml)`', readme)
    assert commands is not None
    fresh.run(commands[1].replace("pip install", "pip install -q", 1), clone)
    built = commands[2].replace("serve", "build --strict", 1)
    fresh.run(f"NO_MKDOCS_2_WARNING=1 {built} --site-dir '{tmp_path / 'site'}'", ROOT)
    assert (tmp_path / "site" / "index.html").is_file()
