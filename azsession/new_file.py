"""`NewFile`: a file that gets its name only when it is complete. Backups, exports and key files are written with it."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class NewFile:
    """A file with mode 0600 that is written beside its final place. Use it as a context manager.

    Without `publish`, nothing is left of the file at the end of the ``with`` block.

    Args:
        path: Where the file will be. A symbolic link is followed.

    Attributes:
        file: The open file.
        temporary: Where the file is until `publish`.

    Raises:
        OSError: `path` is a folder or a device. At the start of the ``with`` block: the file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        if self._path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if self._path.exists() and not self._path.is_file():
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        self.temporary: Path = self._path.with_name(f".{self._path.name[:100]}.{secrets.token_hex(8)}.part")
        self.file: BinaryIO

    def __enter__(self) -> NewFile:
        try:
            # `os.open` with a mode of its own, because the umask may allow others to read.
            self.file = open(self.temporary, "x+b", opener=lambda name, flags: os.open(name, flags, 0o600))
        except OSError as error:
            # The name of the temporary file says nothing to the user.
            raise type(error)(error.errno, error.strerror, str(self._path)) from None
        except BaseException:
            # An interrupt, which can come when the file is there already.
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        self._remove()

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.temporary)

    def publish(self, *, overwrite: bool) -> None:
        """Give the file its name, when its content is on disk.

        Args:
            overwrite: Replace a file that has the name already.

        Raises:
            FileExistsError: A file has the name already.
            OSError: The file cannot be written.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if overwrite:
            os.replace(self.temporary, self._path)
        else:
            self._link()
        _sync_folder(self._path.parent)

    def _link(self) -> None:
        try:
            os.link(self.temporary, self._path)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._path)) from None
        except OSError:
            # This file system has no hard links, so it offers no atomic "create unless it exists".
            if self._path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._path)) from None
            os.replace(self.temporary, self._path)


def _sync_folder(folder: Path) -> None:
    """Wait until the name is on disk, too. Some systems cannot open a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
