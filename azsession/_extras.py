"""The check for installed optional dependencies, and the command that installs them. Code that needs an extra calls it."""

from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec

from .errors import ConfigurationError

_PACKAGE = "azsession"
#: A requirement in the metadata of a package: a name, extras, versions, and after a semicolon a marker.
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+) *(?:\[(?P<extras>[^\]]*)\])?(?P<versions>[^;]*)(?:;(?P<marker>.*))?\Z")


def need(module: str, extra: str) -> None:
    """Check that a module is installed.

    Raises:
        ConfigurationError: It is not. The error says how to install it.
    """
    if find_spec(module) is None:
        raise ConfigurationError(f"{module} is not installed. Install the extra {extra!r} with: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return a command that installs what an extra needs, for a user of a wheel as well as of a clone.

    The command names the packages and not ``azsession[extra]``, because azsession may be on no package index.
    """
    packages = _packages(extra)
    if not packages:
        return f'pip install ".[{extra}]", in a clone of azsession'
    return " ".join(["pip install", *(f'"{each}"' for each in packages)])


def _packages(extra: str) -> list[str]:
    """Return the requirements of an extra from the metadata of azsession. The list is empty if they are unknown."""
    try:
        lines = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    found: list[str] = []
    for line in lines:
        requirement = _REQUIREMENT.match(line)
        of_extra = rf"""(?:\band +)?\bextra *== *["']{re.escape(extra)}["']"""
        if requirement is None or not re.search(of_extra, requirement["marker"] or ""):
            continue
        if requirement["name"] == _PACKAGE:
            for other in (requirement["extras"] or "").split(","):
                found += _packages(other.strip())
            continue
        marker = re.sub(of_extra, "", requirement["marker"]).strip().replace('"', "'")
        package = line.partition(";")[0].strip().replace(" ", "")
        found.append(f"{package}; {marker}" if marker else package)
    return found
