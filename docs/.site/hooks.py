"""Hooks of the documentation site, which mkdocs calls while it builds the site.

Files outside of docs/ become pages, too, and links to them lead to these pages. So a relative link in Markdown works on a
code host and in the site. Comments in Markdown, for example the marks of examples, are left out of the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

#: The pages of the site that are made from Markdown outside of docs/, by the file's path in the repository.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "tests/README.md": "tests.md",
    "tests/torture/README.md": "torture.md",
    "tests/load/README.md": "load.md",
    "benchmarks/README.md": "benchmarks.md",
}
SOURCES = {page: source for source, page in PAGES.items()}

#: The page with all examples. A link to an example leads to its section.
EXAMPLES = "examples.md"
#: The files of examples that the page shows, with the language of each.
LANGUAGES = {".py": "python", ".yaml": "yaml", ".service": "ini", ".Dockerfile": "dockerfile"}

#: A link whose text is the name of its file. The site shows the title of the page instead.
_FILE_LINK = re.compile(r"\[(?:[\w./-]*/)?[\w-]+\.md\]\(([\w./-]+\.md)(#[\w-]*)?\)")
_FENCE = re.compile(r"^(```.*?^```[ \t]*$)", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
#: The target of a Markdown link or image, or of an attribute of an HTML element.
_TARGET = re.compile(r'(\]\(|(?:src|srcset|href)=")([^)\s"]+)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, EXAMPLES, content=examples_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page's text with links that lead to pages of the site, and without comments."""
    if page.file.src_uri == PAGES["README.md"]:
        page.meta["hide"] = ["navigation"]  # It has no neighbours.
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def text(part: str) -> str:
        part = _FILE_LINK.sub(lambda found: f"[{title(found[1], source)}]({found[1]}{found[2] or ''})", part)
        return _TARGET.sub(lambda found: found[1] + site_link(found[2], source), _COMMENT.sub("", part))

    return outside_fences(markdown, text)


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Return the text with everything changed that is not in a fenced code block."""
    return "".join(part if index % 2 else change(part) for index, part in enumerate(_FENCE.split(markdown)))


def title(target: str, source: str) -> str:
    """Return the title of the page that a link leads to; the target itself if there is no such file."""
    path = ROOT / posixpath.dirname(source) / target
    found = re.match(r"# (.*)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else target


def site_link(target: str, source: str) -> str:
    """Return the target of a link as a page of the site has it.

    Args:
        target: The target as written, relative to the file.
        source: The path of the file that has the link, in the repository.
    """
    path, hash_, anchor = target.partition("#")
    if not path or ":" in path:
        return target
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if place in PAGES:
        return PAGES[place] + hash_ + anchor
    if place == "examples" or place.startswith("examples/"):
        return f"{EXAMPLES}#{example_anchor(place)}" if "/" in place else EXAMPLES
    return place.removeprefix("docs/") + hash_ + anchor


def example_anchor(place: str) -> str:
    """Return the anchor of the example that has a file, by the file's path in the repository."""
    return place.split("/")[1].removesuffix(".py").replace("_", "-")


def examples_page() -> str:
    """Return a page with the source of all examples."""
    parts = ["# Examples\n\nEach example is complete. Its first lines show the command that runs it in a clone.\n"]
    for example in sorted((ROOT / "examples").iterdir()):
        sources = [example] if example.is_file() else sorted(example.rglob("*"))
        sources = [each for each in sources if each.suffix in LANGUAGES and each.stat().st_size]
        if not sources:
            continue
        title = example.stem.replace("_", " ").capitalize()
        parts.append(f"\n## {title} {{#{example_anchor(f'examples/{example.name}')}}}\n")
        for each in sources:
            name = each.relative_to(ROOT).as_posix()
            language = LANGUAGES[each.suffix]
            parts.append(f'\n```{language} title="{name}"\n{each.read_text(encoding="utf-8").rstrip()}\n```\n')
    return "".join(parts)
