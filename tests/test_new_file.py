"""`NewFile` gives a file its name only when it is complete."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from azsession.new_file import NewFile


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_published_file_has_its_content_and_is_private(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with NewFile(target) as new:
        new.file.write(b"content")
        assert not target.exists()
        new.publish(overwrite=False)
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert names(tmp_path) == ["file"]


def test_a_file_that_was_not_published_leaves_nothing(tmp_path: Path) -> None:
    with NewFile(tmp_path / "file") as new:
        new.file.write(b"half")
    assert names(tmp_path) == []


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with NewFile(target) as new:
        target.write_bytes(b"other")
        with pytest.raises(FileExistsError, match=str(target)):
            new.publish(overwrite=False)
    assert target.read_bytes() == b"other"
    assert names(tmp_path) == ["file"]


def test_a_file_is_replaced_only_if_asked_for_and_a_link_to_it_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "file", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with NewFile(link) as new:
        new.file.write(b"new")
        new.publish(overwrite=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("wrong", ["nowhere/file", ".", "/dev/null"])
def test_a_place_where_no_file_can_be_is_named_in_the_error(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(OSError, match=wrong if wrong != "." else str(tmp_path)), NewFile(tmp_path / wrong):
        pass
    assert names(tmp_path) == []
