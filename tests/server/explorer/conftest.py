"""The gateway of each test, and a visitor who may do everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .visitor import ROOT, Site, Visitor, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def visitor(site: Site) -> Visitor:
    return Visitor(site, ROOT)
