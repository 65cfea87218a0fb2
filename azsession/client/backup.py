"""How a provider writes a backup of the server's data into a file. Called by `ServiceBusProvider.backup`."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigurationError, ProviderError, ValidationError
from ..new_file import NewFile
from ..validation import shown
from . import backends, queue_operations
from .provider_core import ProviderCore


def backup(core: ProviderCore, path: str | os.PathLike[str], *, overwrite: bool) -> int:
    """Write a checked backup into a file. Return its size in bytes."""
    target = _path(path)
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    core.check_open()
    with NewFile(target) as new:
        sink = _FileSink(new.file, str(target))
        try:
            core.send(queue_operations.backup(sink), "make backups")
        except ProviderError:
            if sink.error is not None:
                raise sink.error from None
            raise
        new.file.flush()
        try:
            backends.check_data_file(new.temporary)
        except ConfigurationError as error:
            raise ProviderError(f"the backup cannot be used: {error}") from error
        size = os.path.getsize(new.temporary)
        new.publish(overwrite=overwrite)
    return size


def _path(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(path)
        if target.name and b"\0" not in os.fsencode(target):
            return target
    except (TypeError, UnicodeEncodeError):
        pass
    raise ValidationError(f"path must be the path of a file, not {shown(path)}")


class _FileSink:
    """Writes the body of a response into a file.

    Attributes:
        error: The failure of a write. The call then ends with another error, and is not repeated.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.error: OSError | None = None

    def begin(self) -> None:
        """Remove the body of an earlier attempt."""
        self._file.seek(0)
        self._file.truncate()

    def write(self, piece: bytes) -> None:
        """Append a piece of the body."""
        try:
            self._file.write(piece)
        except OSError as error:
            self.error = type(error)(error.errno, error.strerror, self._name)
            raise ProviderError(f"{self._name} cannot be written: {error.strerror}") from error
