"""A check for the stand-in's dependency: python-qpid-proton is built from source and needs a C compiler."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.standin.server import StandIn

#: The environment variable that makes a missing package a failure. CI sets it.
REQUIRED = "AZSESSION_REQUIRE_STANDIN"


def require_standin() -> type[StandIn]:
    """Return the class `StandIn`. Without proton, skip the test, or fail it if `REQUIRED` is set."""
    try:
        from tests.standin.server import StandIn
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("proton", "cproton", "cproton_ffi"):
            raise
        text = "needs python-qpid-proton (extra `standin`), which is built with a C compiler"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and this {text}", pytrace=False)
        pytest.skip(text, allow_module_level=True)
    return StandIn
