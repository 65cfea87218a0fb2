"""The time in which a gateway refuses a wrong token, by the kind of mistake, compared with accepting a good token.

The time may depend on the length of the token, which the caller knows. It must not depend on anything secret.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress

from azsession.errors import AuthenticationFailedError
from azsession.protocol.routes import Operation
from azsession.protocol.sas import generate_sas_token
from azsession.server import AccessKey, Right
from azsession.server.authorization import Guard

KEY = AccessKey("root", "c2VjcmV0", frozenset({Right.MANAGE}))


def tokens() -> dict[str, str]:
    """Return tokens by their mistake. All but the last two are about as long as the good one."""
    until = int(time.time()) + 3600
    good = generate_sas_token("https://here/orders", KEY.name, KEY.key, until)
    last = good.index("&se=") - 4
    return {
        "good": good,
        "first byte of the signature wrong": good.replace("sig=", "sig=A", 1),
        "last bytes of the signature wrong": good[: last - 3] + "AAA" + good[last:],
        "unknown key": generate_sas_token("https://here/orders", "toor", KEY.key, until),
        "other secret": generate_sas_token("https://here/orders", KEY.name, "b3RoZXI=", until),
        "expired": generate_sas_token("https://here/orders", KEY.name, KEY.key, until - 7200),
        "a sibling": generate_sas_token("https://here/order2", KEY.name, KEY.key, until),
        "three fields": good.replace("&skn=", "+skn="),
        "none": "",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--checks", type=int, default=50, help="checks of each token in a round")
    options = parser.parse_args(arguments)
    guard, found = Guard([KEY]), tokens()
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(options.rounds):
        # In turn, so that other work of the machine affects all tokens alike.
        for name, token in found.items():
            began = time.perf_counter()
            for _ in range(options.checks):
                with suppress(AuthenticationFailedError):
                    guard.check(token, "here", ("orders",), Operation.RECEIVE)
            times[name].append((time.perf_counter() - began) / options.checks * 1e6)
    good = statistics.median(times["good"])
    print(f"{'token':36} {'median':>9} {'of a good one':>14}")
    for name, each in times.items():
        median = statistics.median(each)
        print(f"{name:36} {median:6.1f} us {median / good:14.2f}")


if __name__ == "__main__":
    main()
