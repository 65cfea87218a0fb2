"""The key file of `azsession serve`: one access key a line. The first start creates the file, `azsession key` edits it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigurationError
from ..new_file import NewFile
from ..server import AccessKey

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]

#: Bytes of a key file at most: some thousand keys.
MAX_SIZE = 1024 * 1024


def stored_keys(path: Path) -> list[AccessKey]:
    """Return the keys in a file. If the file does not exist, create it with one new key.

    Raises:
        ConfigurationError: Another user owns the file or can read it, its content is malformed, or it cannot be read
            or created.
    """
    try:
        return read_keys(path)
    except FileNotFoundError:
        pass
    key = AccessKey.generate()
    try:
        write_keys(path, [key])
    except FileExistsError:
        return read_keys(path)
    return [key]


def read_keys(path: Path, *, for_editing: bool = False) -> list[AccessKey]:
    """Return the keys in a file.

    Args:
        path: The file.
        for_editing: Let root read the file of another user, with whose keys root serves nobody.

    Raises:
        FileNotFoundError: There is no file.
        ConfigurationError: Another user owns the file or can read it, its content is malformed, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _keys_in(file, path, for_editing=for_editing)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be read: {error}") from error


def _keys_in(file: BinaryIO, path: Path, *, for_editing: bool) -> list[AccessKey]:
    check_private(path, os.fstat(file.fileno()), for_editing=for_editing)
    content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise ConfigurationError(f"the key file {path} has more than {MAX_SIZE} bytes")
    try:
        keys = [AccessKey.parse(line.strip()) for line in content.decode().split("\n") if line.strip()]
    except (ConfigurationError, UnicodeDecodeError):
        keys = []
    if not keys or len({key.name for key in keys}) != len(keys):
        raise ConfigurationError(
            f"the key file {path} is damaged: each line must be NAME:KEY:RIGHTS or NAME:KEY:RIGHTS@QUEUES, with a different "
            "name on each; delete the file to get a new key"
        )
    return keys


def check_private(path: Path, found: os.stat_result, *, for_editing: bool = False) -> None:
    """Raise `ConfigurationError` if another user can read a key file, or owns it."""
    if os.name != "posix":
        return
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (os.geteuid(), 0) and not (for_editing and os.geteuid() == 0):
        # The owner can read the keys whatever the mode is. In a folder that others can write to, the owner can be anyone.
        raise ConfigurationError(f"the key file {path} belongs to another user, who can read and change its keys")
    # A service manager provides a secret as a file of root that a group of the service may read (Kubernetes with fsGroup,
    # systemd's credentials). PostgreSQL has the same rule for its keys.
    if mode & (0o037 if found.st_uid == 0 != os.geteuid() else 0o077):
        raise ConfigurationError(
            f"the key file {path} can be read by others (mode {mode:04o}): run chmod 600 on it, or, if someone may have read "
            "it, delete it to get a new key"
        )


def write_keys(path: Path, keys: Iterable[AccessKey]) -> None:
    """Create a key file.

    Raises:
        FileExistsError: There is a file already.
        ConfigurationError: The file cannot be created.
    """
    _write(path, keys, None)


def edit_keys(path: Path, change: Callable[[list[AccessKey]], list[AccessKey]]) -> None:
    """Replace the keys in a file. Others see the old keys or the new ones. Two editors at once wait for each other.

    Args:
        path: The file.
        change: Returns the new keys for the old ones.

    Raises:
        FileNotFoundError: There is no file.
        ConfigurationError: Another user owns the file or can read it, its content is malformed, or it cannot be read or
            written.
    """
    with _locked(path) as file:
        _write(path, change(_keys_in(file, path, for_editing=True)), os.fstat(file.fileno()))


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a key file that no other editor has open. The lock ends with the process, however that ends."""
    while True:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigurationError(f"the key file {path} cannot be read: {error}") from error
        with file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
                # Another editor that had the lock before has put a new file there.
                if not _is_at(path, file):
                    continue
            yield file
            return


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _write(path: Path, keys: Iterable[AccessKey], old: os.stat_result | None) -> None:
    try:
        with NewFile(path) as new:
            if old is not None and hasattr(os, "fchown") and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                # The gateway may run as another user than the editor, for example root.
                os.fchown(new.file.fileno(), old.st_uid, old.st_gid)
            new.file.write("".join(f"{key.to_text()}\n" for key in keys).encode())
            new.publish(overwrite=old is not None)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be written: {error}") from error
