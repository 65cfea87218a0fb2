"""The key that `azsession serve` makes on its first start, in a file beside the data."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from ..errors import ConfigurationError
from ..gateway import AccessKey


def key_file(data: Path) -> Path:
    """Return where the key of a data file lies."""
    return data.with_name(data.name + ".key")


def stored_key(path: Path) -> AccessKey:
    """Return the key of a file, made if it is not there. The caller has the data file, so that nobody else makes it now.

    Raises:
        ConfigurationError: Others can read it, it is damaged, or it cannot be read or made.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise ConfigurationError(
                    f"the key file {path} can be read by others (mode {mode:04o}): say chmod 600, or delete it to have a new "
                    "key made if somebody may have read it"
                )
            text = file.read(4096).strip()
    except FileNotFoundError:
        return _make(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the key file {path} cannot be read: {error}") from error
    try:
        return AccessKey.parse(text)
    except ConfigurationError:
        raise ConfigurationError(
            f"the key file {path} is damaged: it holds no NAME:KEY:RIGHTS; delete it to have a new key made"
        ) from None


def _make(path: Path) -> AccessKey:
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
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be written: {error}") from error
    return key
