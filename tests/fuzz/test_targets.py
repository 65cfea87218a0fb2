"""Each parser accepts any bytes or raises its own exceptions. ``python -m tests.fuzz`` searches longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..support.paths import ROOT
from . import endpoint, served
from .client import scratch_file
from .targets import TARGETS, Target

ALL = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))

#: Pieces that are repeated to build inputs on which a quadratic parser is slow.
REPEATED = [
    b"a", b" ", b"\x00", b"\xff", b"0", b"9", b"=", b"&", b"&a=", b";", b";a=b", b"/", b"%", b"%2F", b"/sessions", b"\n",
    b"\n\n", b'a: "\n', b"a:1\n", b'"', b"\\", b'"\\', b"[", b"{", b'{"a":', b"[1,", b"<", b"<Code>", b"<Detail>a",
    b".", b"1.", b"-", b":", b"P1", b"1D", b"Mon, ", b"+1", b"(", b"\x00\x53\x75\xa0\x01a", b"\x00\x53\x77",
    b"\xc0\xff\xff", b"\xd0\x00\x00\x00", b"\x82\x00", b"\x89\x00", b"azs1.", b"A=",
]  # fmt: skip
LARGE = 64 * 1024


@pytest.fixture(scope="module", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    scratch_file(tmp_path_factory.mktemp("fuzz") / "keys")
    with served.serving(), endpoint.serving():
        yield


def near(target: Target) -> st.SearchStrategy[bytes]:
    """Return inputs like the seeds: cut, joined, with other bytes in between, or random bytes."""
    seeds = st.sampled_from(target.seeds)
    bits = st.binary(max_size=4) | st.sampled_from(REPEATED)

    def spliced(one: bytes, other: bytes, bit: bytes, places: tuple[int, int]) -> bytes:
        return one[: places[0] % (len(one) + 1)] + bit + other[places[1] % (len(other) + 1) :]

    places = st.tuples(st.integers(0, 400), st.integers(0, 400))
    return st.builds(spliced, seeds, seeds, bits, places) | st.binary(max_size=60)


@ALL
def test_a_target_accepts_one_of_its_seeds(target: Target) -> None:
    def is_accepted(seed: bytes) -> bool:
        try:
            target.run(seed)
        except target.allowed:
            return False
        return True

    assert any(is_accepted(seed) for seed in target.seeds), "all seeds of the target are refused, so it tests little"


@ALL
@given(st.data())
def test_any_bytes_are_accepted_or_raise_allowed_exceptions(target: Target, data: st.DataObject) -> None:
    target(data.draw(near(target)))


@ALL
def test_a_large_input_ends_in_bounded_time(target: Target) -> None:
    # A quadratic parser would need four billion steps here, and the suite's time limit would fail the test.
    for piece in REPEATED:
        again = piece * (LARGE // len(piece))
        target(again)
        for seed in target.seeds[:2]:
            middle = len(seed) // 2
            target(seed + again)
            target(seed[:middle] + again + seed[middle:])


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="needs atheris (extra `fuzz`), which some Pythons lack",
)
def test_a_target_runs_under_atheris(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "duration", "--seconds", "1", "--findings", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "number_of_executed_units" in done.stderr
    assert not list(tmp_path.iterdir())
