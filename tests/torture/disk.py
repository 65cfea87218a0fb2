"""A small file system of a torture run's own, so that it can be full, or its files be read-only, without harm to the machine.

It is an ext4 image behind a loop device, which takes root and Linux: where it cannot be had, `SmallDisk.made` gives `None`,
and these faults are left out, which the report says.
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
    """The mounted image; `close` takes it away."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        self._image = image
        self._ballast = place / "ballast"

    @classmethod
    def made(cls, folder: Path) -> SmallDisk | None:
        """Return a new one below `folder`, or `None` where this machine does not let us."""
        if any(shutil.which(tool, path=_PATH) is None for tool in _TOOLS):
            return None
        image, place = folder / "disk.img", folder / "disk"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(SIZE)
        if not _ran("mkfs.ext4", "-q", "-F", str(image)) or not _ran("mount", "-o", "loop", str(image), str(place)):
            return None
        return cls(image, place)

    def fill(self) -> None:
        """Take all the space that is left."""
        with self._ballast.open("wb", buffering=0) as file:
            # Blocks are given away by others meanwhile: again until nothing is left.
            for size in (1 << 20, 1 << 12, 1 << 9):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def protect(self, protected: bool) -> None:
        """Make every file read-only, open ones included; or take that back."""
        files = [str(path) for path in self.place.iterdir() if path.is_file()]
        _ran("chattr", "+i" if protected else "-i", *files)

    def close(self) -> None:
        self.protect(False)
        _ran("umount", "-l", str(self.place))
        self._image.unlink()


def _ran(*command: str) -> bool:
    return subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True, check=False).returncode == 0
