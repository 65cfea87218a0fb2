"""Short torture runs with fixed seeds. For long runs, see README.md in this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..namespaces.choice import SERVERS
from .run import torture


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [11, 12])
def test_the_embedded_broker_keeps_its_guarantees_under_faults(tmp_path: Path, seed: int) -> None:
    report = torture(tmp_path, seed, 30)
    assert report.is_good, report.text()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("server", SERVERS)
def test_a_gateway_in_front_of_azure_keeps_its_guarantees_under_faults(tmp_path: Path, server: str) -> None:
    report = torture(tmp_path, 13, 30, azure=server)
    assert report.is_good, report.text()
