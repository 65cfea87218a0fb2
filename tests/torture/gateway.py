"""A gateway process that starts fast: ``python -m tests.torture.gateway``.

It imports the modules of a gateway, and waits for a line of JSON with ``arguments`` on its standard input. Then it is
``azsession`` with these arguments. A run always has one in reserve, because imports take most of the time of a restart.
"""

from __future__ import annotations

import json
import sys

import azsession.broker.azure
import azsession.broker.embedded
import azsession.cli.group
import azsession.cli.serve
import azsession.server.http.app
import azsession.server.service  # noqa: F401
from azsession.cli import main

if __name__ == "__main__":
    line = sys.stdin.readline()
    if line:  # Otherwise the run is over.
        sys.argv[1:] = json.loads(line)["arguments"]
        main()
