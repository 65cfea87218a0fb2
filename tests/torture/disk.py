"""A small file system for the data file of a torture run. It can be filled or made read-only without harm to the machine.

It is an ext4 image on a loop device, which needs Linux and root. Without them, `SmallDisk.create` returns `None`, and the run
has no faults of the disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

SIZE = 96 * 1024 * 1024
_TOOLS = ("mkfs.ext4", "mount", "umount", "chattr")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class SmallDisk:
    """The mounted image. `close` unmounts and deletes it."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        self._image = image
        self._ballast = place / "ballast"

    @classmethod
    def create(cls, folder: Path) -> SmallDisk | None:
        """Create and mount an image in `folder`. Return `None` if this machine does not permit that."""
        if any(shutil.which(tool, path=_PATH) is None for tool in _TOOLS):
            return None
        image, place = folder / "disk.img", folder / "disk"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(SIZE)
        if not _run("mkfs.ext4", "-q", "-F", str(image)) or not _run("mount", "-o", "loop", str(image), str(place)):
            return None
        return cls(image, place)

    def fill(self) -> None:
        """Use all free space."""
        with self._ballast.open("wb", buffering=0) as file:
            # Another process may free blocks meanwhile, so write again with smaller blocks.
            for size in (1 << 20, 1 << 12, 1 << 9):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        """Free the space."""
        self._ballast.unlink(missing_ok=True)

    def protect(self, protected: bool) -> None:
        """Make all files read-only, including open ones, or make them writable again."""
        files = [str(path) for path in self.place.iterdir() if path.is_file()]
        _run("chattr", "+i" if protected else "-i", *files)

    def close(self) -> None:
        self.protect(False)
        _run("umount", "-l", str(self.place))
        self._image.unlink()


def _run(*command: str) -> bool:
    return subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True, check=False).returncode == 0
