"""The keys that `azsession serve` accepts, in a file that it makes on its first start."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigurationError
from ..server import AccessKey


def stored_keys(path: Path) -> list[AccessKey]:
    """Return the keys of a file, one a line; with one key made if it is not there.

    Raises:
        ConfigurationError: Others can read it or own it, it is damaged, or it cannot be read or made.
    """
    try:
        with path.open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            mode = stat.S_IMODE(found.st_mode)
            if os.name == "posix" and found.st_uid not in (os.geteuid(), 0):
                # Its owner knows the keys, whatever its mode; and where others may write to the folder it can be theirs.
                raise ConfigurationError(f"the key file {path} belongs to another user, who can read and change its keys")
            if os.name == "posix" and mode & 0o077:
                raise ConfigurationError(
                    f"the key file {path} can be read by others (mode {mode:04o}): say chmod 600, or delete it to have a new "
                    "key made if somebody may have read it"
                )
            lines = file.read(65536).split("\n")
    except FileNotFoundError:
        return _make(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the key file {path} cannot be read: {error}") from error
    try:
        keys = [AccessKey.parse(line.strip()) for line in lines if line.strip()]
    except ConfigurationError:
        keys = []
    if not keys or len({key.name for key in keys}) != len(keys):
        raise ConfigurationError(
            f"the key file {path} is damaged: it holds no NAME:KEY:RIGHTS, one a line; delete it to have a new key made"
        )
    return keys


def _make(path: Path) -> list[AccessKey]:
    key = AccessKey.generate()
    rights = ",".join(sorted(right.value for right in key.rights))
    try:
        # Of mode 0600 from its beginning, and whole once it has its name.
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{key.name}:{key.key}:{rights}\n")
                file.flush()
                os.fsync(file.fileno())
            _name_it(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except FileExistsError:
        return stored_keys(path)
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be written: {error}") from error
    return [key]


def _name_it(temporary: str, path: Path) -> None:
    """Give a file its name, unless another process was quicker: several gateways may start at once."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # This file system has no links, and so no way to tell.
        os.replace(temporary, path)
