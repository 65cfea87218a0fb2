"""Checks of all files: their size, the tests of each module, names in the documentation, and statements of SQLite."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .support.paths import ROOT

MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80
#: Folders of the package whose modules do not all have a test file of their name.
TO_MIRROR = {"amqp", "broker", "server"}
FILES = sorted(path for folder in ("azsession", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


def long_files(root: Path, files: list[Path]) -> list[str]:
    """Return the files with more than `MAX_FILE_LINES` lines."""
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    return [f"{path.relative_to(root)}: {size} lines" for path, size in sizes.items() if size > MAX_FILE_LINES]


def long_functions(root: Path, files: list[Path]) -> list[str]:
    """Return the functions with more than `MAX_FUNCTION_LINES` lines."""
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                size = node.end_lineno - node.lineno + 1
                if size > MAX_FUNCTION_LINES:
                    found.append(f"{path.relative_to(root)}:{node.lineno}: {node.name} has {size} lines")
    return found


def untested_modules(package: Path, tests: Path) -> list[str]:
    """Return the modules of a package that have no test files that begin with their name, and no test folder of their name.

    The test file of ``__init__.py`` is ``test_package.py``. An ``__init__.py`` or ``__main__.py`` without functions and
    classes needs none.
    """
    found = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.stem.startswith("__") and not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
            continue
        name = "package" if path.stem == "__init__" else path.stem.lstrip("_")
        folder = tests / path.parent.relative_to(package)
        if not any([(folder / name).is_dir(), (folder / f"test_{name}.py").exists(), *folder.glob(f"test_{name}_*.py")]):
            found.append(path.relative_to(package).as_posix())
    return found


def test_no_file_has_more_than_400_lines() -> None:
    assert len(FILES) > 100
    assert "\n".join(long_files(ROOT, FILES)) == ""


def test_no_function_has_more_than_80_lines() -> None:
    assert "\n".join(long_functions(ROOT, FILES)) == ""


@pytest.mark.parametrize(("size", "is_long"), [(80, False), (81, True)])
def test_the_check_counts_the_lines_of_a_function(tmp_path: Path, size: int, is_long: bool) -> None:
    path = tmp_path / "module.py"
    path.write_text("class C:\n    async def f(self):\n" + "        pass\n" * (size - 1))
    assert long_functions(tmp_path, [path]) == ([f"module.py:2: f has {size} lines"] if is_long else [])


@pytest.mark.parametrize(("size", "is_long"), [(400, False), (401, True)])
def test_the_check_counts_the_lines_of_a_file(tmp_path: Path, size: int, is_long: bool) -> None:
    path = tmp_path / "module.py"
    path.write_text("x = 1\n" * size)
    assert long_files(tmp_path, [path]) == ([f"module.py: {size} lines"] if is_long else [])


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / ".mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages) > 10
    assert pages - set(navigation) == set(), "add these pages to nav in .mkdocs.yml"


def test_no_statement_of_sqlite_numbers_its_placeholders() -> None:
    # Python 3.12.0 to 3.12.3 warn that ?1 is a named placeholder: https://github.com/python/cpython/issues/117995
    files = (ROOT / "azsession" / "broker" / "embedded").rglob("*.py")
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert any("= ?" in text for text in texts)
    assert [text for text in texts if re.search(r"\?[0-9]", text)] == []


def attributes_of(files: list[Path]) -> set[str]:
    """Return the attributes and methods of all classes, as ``Class.name``."""
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for each in ast.walk(node):
                    if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self":
                        found.add(f"{node.name}.{each.attr}")
                    elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add(f"{node.name}.{each.name}")
    return found


def test_the_locks_and_methods_that_the_architecture_page_names_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]\w+\._?[a-z]\w*)`", page))
    assert len(named) > 20
    known = attributes_of([path for path in FILES if path.is_relative_to(ROOT / "azsession")])
    assert named - known == set()


def test_every_module_has_tests_of_its_name() -> None:
    missing = untested_modules(ROOT / "azsession", ROOT / "tests")
    assert [module for module in missing if module.partition("/")[0] not in TO_MIRROR] == []


def test_the_check_finds_a_module_without_tests(tmp_path: Path) -> None:
    package, tests = tmp_path / "package", tmp_path / "tests"
    for name in ("inner/a.py", "inner/b.py", "inner/c.py", "_d.py", "inner/__init__.py", "e.py"):
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name.startswith("inner/_") else "def f(): ...\n")
    (tests / "inner" / "c").mkdir(parents=True)
    for name in ("inner/test_a_more.py", "test_b.py", "test_d.py"):
        (tests / name).touch()
    assert untested_modules(package, tests) == ["e.py", "inner/b.py"]
