"""The `azsession` command. It needs click and rich, which are loaded when `main` runs, not when this package is imported."""

from __future__ import annotations

import signal
import sys

from .. import __version__
from .._extras import need
from ..errors import ConfigurationError

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, then exit.

    The exit status is 0 for success, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C, 143 for SIGTERM and 129 for SIGHUP.
    """
    try:
        status = _run()
        # The interpreter needs a moment to end. Ctrl-C then ends it at once, instead of with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        # Ctrl-C outside a command, for example while its modules are loading.
        status = 130
    sys.exit(status)


def _run() -> int:
    try:
        need("click", "cli")
        need("rich", "cli")
    except ConfigurationError as error:
        if sys.argv[1:] == ["--version"]:
            print(f"azsession, version {__version__}")
            return 0
        print(f"azsession: {error}", file=sys.stderr)
        return 1
    from .group import run

    return run()
