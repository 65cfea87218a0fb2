"""The examples in the package's docstrings run, and print the output that they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import azsession

PACKAGE = Path(azsession.__file__).parent
EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


def test_the_main_classes_have_examples() -> None:
    main = {"config.py", "errors.py", "messages.py", "processor.py", "provider.py", "queues.py", "session.py"}
    assert main <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_examples_of_a_module_run(path: Path) -> None:
    name = ".".join(("azsession", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, attempted = doctest.testmod(import_module(name), optionflags=options)
    assert attempted > 0
    assert failed == 0
