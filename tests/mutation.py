"""``python -m tests.mutation MODULE``: how many faults in a module do the tests nearest to it find?

mutmut makes a copy of the package with many small faults, called mutants, and runs the tests with one fault at a time. A
mutant that no test finds survives; its difference is printed. The modules and their tests are in
``[tool.azsession-mutation]`` of pyproject.toml. It needs the extra ``mutation`` and Python 3.11. It works in
``build/mutation``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from .support.paths import ROOT

#: The folders and files that the tests need.
COPIED = ("azsession", "tests", "docs", "examples", "README.md", "SECURITY.md", "pyproject.toml", "setup.cfg")
#: mutmut's exit codes of a mutant that no test finds: the tests pass, or no test runs it.
SURVIVED = (0, 5, 33)


def modules() -> dict[str, list[str]]:
    """Return the tests nearest to each module that is mutated."""
    import tomllib  # Not in Python 3.10, on which this file is only compiled.

    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["azsession-mutation"]
    return {str(module): [str(test) for test in tests] for module, tests in found.items()}


def copy(module: str, tests: list[str]) -> Path:
    """Copy the project, configure mutmut for one module, and return the folder."""
    folder = ROOT / "build" / "mutation" / Path(module).stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
        else:
            shutil.copy(ROOT / name, folder / name)
    settings = {
        "source_paths": ["azsession"],
        "only_mutate": [module],
        "also_copy": ["docs", "examples", "README.md", "SECURITY.md"],
        "pytest_add_cli_args": ["-p", "no:randomly", "--timeout", "20"],
        "pytest_add_cli_args_test_selection": tests,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n".join(["", "[tool.mutmut]", *lines, ""]))
    return folder


def sample(folder: Path, module: str, every: int) -> list[str]:
    """Return the names of every `every`-th mutant, in the order of the file."""
    script = (
        "import sys\n"
        "from mutmut.mutation.file_mutation import mutate_file_contents as mutate\n"
        "source = open(sys.argv[1], encoding='utf-8').read()\n"
        "print('\\n'.join(mutate(sys.argv[1], source, None).mutant_names))\n"
    )
    names = subprocess.run(
        [sys.executable, "-c", script, module], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()
    dotted = module.removesuffix(".py").replace("/", ".")
    return [f"{dotted}.{name}" for name in names[::every]]


def main() -> None:
    """Mutate one module, and print the result."""
    known = modules()
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n\n")[0])
    parser.add_argument("module", choices=[Path(module).stem for module in known], help="the module, without its folder")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes at the same time")
    options = parser.parse_args()
    module = next(module for module in known if Path(module).stem == options.module)
    folder = copy(module, known[module])
    chosen = sample(folder, module, options.every) if options.every > 1 else []
    mutmut = [sys.executable, "-m", "mutmut"]
    run = [*mutmut, "run", "--max-children", str(options.jobs), *chosen]
    subprocess.run(run, cwd=folder, check=True, env={**os.environ, "AZSESSION_TEST_PATIENCE": "3"})
    meta = json.loads((folder / "mutants" / f"{module}.meta").read_text(encoding="utf-8"))
    codes: dict[str, int | None] = {name: code for name, code in meta["exit_code_by_key"].items() if code is not None}
    survived = [name for name, code in codes.items() if code in SURVIVED]
    for name in survived:
        shown = subprocess.run([*mutmut, "show", name], cwd=folder, check=True, capture_output=True, text=True).stdout
        print("\n".join(line for line in shown.splitlines() if not line.startswith(("---", "+++", "@@"))))
    print(f"{module}: {len(codes) - len(survived)} of {len(codes)} mutants found, exit codes {dict(Counter(codes.values()))}")


if __name__ == "__main__":
    main()
