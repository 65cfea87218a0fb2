"""The `azsession` command. It needs click and rich, which are loaded when `main` runs, not when this package is imported."""

from __future__ import annotations

import sys

from .. import __version__
from .._extras import need
from ..errors import ConfigurationError

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, then exit.

    The exit status is 0 for success, 1 for a failure, 2 for wrong usage and 130 for Ctrl-C.
    """
    try:
        need("click", "cli")
        need("rich", "cli")
    except ConfigurationError as error:
        if sys.argv[1:] == ["--version"]:
            print(f"azsession, version {__version__}")
            sys.exit(0)
        print(f"azsession: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        from .group import run

        sys.exit(run())
    except KeyboardInterrupt:
        # Ctrl-C outside a command, for example while its modules are loading.
        sys.exit(130)
