"""The key file of `azsession serve`: one access key a line. The first start creates the file."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigurationError
from ..server import AccessKey


def stored_keys(path: Path) -> list[AccessKey]:
    """Return the keys in a file. If the file does not exist, create it with one new key.

    Raises:
        ConfigurationError: Another user owns the file or can read it, its content is malformed, or it cannot be read
            or created.
    """
    try:
        with path.open(encoding="utf-8") as file:
            _check_private(path, os.fstat(file.fileno()))
            lines = file.read(65536).split("\n")
    except FileNotFoundError:
        return _create(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the key file {path} cannot be read: {error}") from error
    try:
        keys = [AccessKey.parse(line.strip()) for line in lines if line.strip()]
    except ConfigurationError:
        keys = []
    if not keys or len({key.name for key in keys}) != len(keys):
        raise ConfigurationError(
            f"the key file {path} is damaged: each line must be NAME:KEY:RIGHTS or NAME:KEY:RIGHTS@QUEUES, with a different "
            "name on each; delete the file to get a new key"
        )
    return keys


def _check_private(path: Path, found: os.stat_result) -> None:
    if os.name != "posix":
        return
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (os.geteuid(), 0):
        # The owner can read the keys whatever the mode is. In a folder that others can write to, the owner can be anyone.
        raise ConfigurationError(f"the key file {path} belongs to another user, who can read and change its keys")
    if mode & 0o077:
        raise ConfigurationError(
            f"the key file {path} can be read by others (mode {mode:04o}): run chmod 600 on it, or, if someone may have read "
            "it, delete it to get a new key"
        )


def _create(path: Path) -> list[AccessKey]:
    key = AccessKey.generate()
    try:
        # mkstemp creates the file with mode 0600. The file gets its final name only after it is complete.
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{key.to_text()}\n")
                file.flush()
                os.fsync(file.fileno())
            _publish(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except FileExistsError:
        return stored_keys(path)
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be written: {error}") from error
    return [key]


def _publish(temporary: str, path: Path) -> None:
    """Give a complete file its final name. Raise `FileExistsError` if another gateway created the file first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # This file system has no hard links, so it offers no atomic "create unless it exists".
        os.replace(temporary, path)
