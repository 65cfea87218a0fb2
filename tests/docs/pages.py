"""The pages of the documentation, and the code blocks and marks in them.

CONTRIBUTING.md, "Documentation", explains the marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from markdown_it import MarkdownIt

from ..support.paths import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
_MARK = re.compile(
    r"<!-- (in the background|not run|hidden python|hidden sh|hidden background|stop|run by)\b:?\s?(.*?)\s*-->", re.DOTALL
)


@attrs.frozen
class Block:
    """A code block of a page, or a mark that is a step of its own.

    Attributes:
        language: ``"python"``, ``"sh"``, ``"json"``, ``"text"`` and so on; ``"stop"`` for the mark of that name.
        code: The text of the block.
        line: The line in the page, for messages.
        mark: The mark directly before it: ``"in the background"``, ``"not run"`` or ``""``.
        is_hidden: It is in a comment, so that readers do not see it.
    """

    language: str
    code: str
    line: int
    mark: str = ""
    is_hidden: bool = False

    @property
    def file_name(self) -> str | None:
        """The file whose content the block shows, named by the comment in its first line. `None`: it shows no file."""
        found = re.match(r"# ([\w/.-]+\.(?:py|sql|ini|cfg|toml|yaml))\n", self.code)
        return found[1] if found else None


def blocks(text: str) -> Iterator[Block]:
    """Yield the code blocks and steps of a page in their order."""
    mark = ""
    for token in MarkdownIt("commonmark").parse(text):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            found = _MARK.match(token.content)
            mark = found[1] if found else ""
            if found and mark.startswith("hidden"):
                language = mark.removeprefix("hidden ")
                is_background = language == "background"
                step = ("sh", "in the background") if is_background else (language, "")
                yield Block(step[0], f"{found[2]}\n", line, step[1], is_hidden=True)
            elif mark == "stop":
                yield Block("stop", "", line)
        elif token.type == "fence":
            yield Block(token.info.split(" ")[0], token.content, line, mark)
            mark = ""
        elif token.type.endswith("_open"):
            mark = ""


def run_by(text: str) -> Path | None:
    """Return the test file that runs the blocks of a page, by the page's mark, or `None`."""
    found = re.search(r"^<!-- run by: (\S+) -->$", text, re.MULTILINE)
    return ROOT / found[1] if found else None
