"""The package as a whole."""

from __future__ import annotations

import subprocess
import sys


def test_azure_is_reached_without_the_official_sdk() -> None:
    program = """
import sys
sys.modules["azure.servicebus"] = None  # An import of it fails.
import azsession.amqp, azsession.broker.azure
print([name for name in sys.modules if name.startswith("azure.servicebus.")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
