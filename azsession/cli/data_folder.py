"""Where `azsession serve` keeps its data file and its key file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import ConfigurationError

_DATA_FILE = "azsession.db"


def _user_folder() -> Path:
    """Return azsession's folder in the user's folder for application data. It may not exist."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
        standard = Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base, standard = "", Path.home() / "Library" / "Application Support"
    else:
        base, standard = os.environ.get("XDG_DATA_HOME", ""), Path.home() / ".local" / "share"
    # The XDG Base Directory Specification says to ignore relative paths.
    return (Path(base) if os.path.isabs(base) else standard) / "azsession"


def _create_user_folder() -> Path:
    folder = _user_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def data_file(given: Path | None) -> Path:
    """Return the absolute path of the data file: the given one, else the default one in the user's folder.

    Raises:
        ConfigurationError: The folder of the given file does not exist.
    """
    if given is None:
        return (_create_user_folder() / _DATA_FILE).absolute()
    if not given.parent.is_dir():
        raise ConfigurationError(f"the folder of the data file {given} does not exist: create it first")
    return given.absolute()


def key_file_of(data: Path) -> Path:
    """Return the path of the key file that belongs to a data file."""
    return data.with_name(data.name + ".key")


def key_file_of_namespace(host: str) -> Path:
    """Return the path of the key file for a gateway to an Azure namespace, in the user's folder."""
    return _create_user_folder() / f"{host.replace(':', '-')}.key"
