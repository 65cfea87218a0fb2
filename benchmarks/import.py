"""The time of `import azsession` compared with `import requests`, in fresh interpreters."""  # noqa: N999

from __future__ import annotations

import subprocess
import sys

from .common import Figure, arguments, interleaved, show

_TIMED = """
import sys, time
began = time.perf_counter()
import {module}
took = time.perf_counter() - began
azure = sorted(name for name in sys.modules if name.split(".")[0] in ("azure", "msal", "isodate"))
server = sorted(name for name in sys.modules if name.split(".")[0] in ("uvicorn", "click", "rich", "sqlite3"))
print(took, len(azure), len(server))
"""


def main() -> None:
    """Measure and print the result."""
    options = arguments("import", __doc__ or "", rounds=25)
    loaded: set[str] = set()

    def measure(module: str) -> float:
        # In isolated mode (-I) the current folder and the environment have no influence.
        command = [sys.executable, "-I", "-c", _TIMED.format(module=module)]
        took, *others = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        if module == "azsession":
            loaded.update(others)
        return float(took)

    for module in ("requests", "azsession"):
        measure(module)
    found = interleaved(options.rounds, requests=lambda: measure("requests"), azsession=lambda: measure("azsession"))
    assert loaded == {"0"}, "import azsession loads a package of Azure or of the server"
    ratio = found["azsession"] / found["requests"]
    show(
        "import",
        [
            Figure(
                f"import in a fresh interpreter ({options.rounds} rounds)",
                f"{found['requests'] * 1e3:.0f} ms   import requests",
                f"{found['azsession'] * 1e3:.0f} ms   import azsession; packages of Azure or of the server loaded: none",
                ratio,
                "at most 1.5, and no Azure package",
                ratio <= 1.5,
            )
        ],
    )


if __name__ == "__main__":
    main()
