"""The command `azsession`. Needs the extra ``server``; loads nothing of it before `main` is called."""

from __future__ import annotations

import sys

from .._extras import need
from ..errors import ConfigurationError

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and exit: 0 done, 1 it failed, 2 used wrongly, 130 Ctrl-C."""
    try:
        need("click", "server")
        need("rich", "server")
    except ConfigurationError as error:
        print(f"azsession: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        from .group import run

        sys.exit(run())
    except KeyboardInterrupt:
        # Elsewhere than in a command: while it was loaded, or on its way out.
        sys.exit(130)
