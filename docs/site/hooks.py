"""Makes a site of docs/ as it stands on GitHub: README is the first page, and files elsewhere in the repository that a
page links to become pages of the site."""

from __future__ import annotations

import json
import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh", ".sbatch": "sh", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    wanted = set()
    for name in (*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())):
        text = (ROOT / name).read_text()
        wanted |= {path for link in _LINK.findall(text) if (path := _outside(link, name))}
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=_rewritten((ROOT / name).read_text(), name, page)))
    while wanted:
        path = wanted.pop()
        page = _source_page(path)
        if files.get_file_from_path(page) is None:
            content, inside = _source(path)
            files.append(File.generated(config, page, content=content))
            wanted |= inside
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The links of a page of docs/ as those of the site."""
    uri = page.file.src_uri
    return markdown if page.file.generated_by else _rewritten(markdown, f"docs/{uri}", uri)


def _rewritten(text: str, name: str, page: str) -> str:
    """The text of the file ``name`` with the site's links, from its ``page`` on, in place of the repository's."""

    def link(match: re.Match[str]) -> str:
        path = _resolved(match[1], name)
        if path.startswith("docs/"):
            target = posixpath.relpath(path, "docs")
        elif path in PAGES or (ROOT / path).exists():
            target = PAGES.get(path) or _source_page(path)
        else:
            return match[1]
        return posixpath.relpath(target, posixpath.dirname(page) or ".")

    return _LINK.sub(link, text)


def _resolved(link: str, name: str) -> str:
    """The path in the repository that a link of the page ``name`` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


def _outside(link: str, name: str) -> str | None:
    """The same where the file is no page of the site by itself."""
    path = _resolved(link, name)
    return path if not path.startswith("docs/") and path not in PAGES and (ROOT / path).exists() else None


def _source_page(path: str) -> str:
    return f"source/{path}.md"


def _source(path: str) -> tuple[str, set[str]]:
    """A file as a page, or a folder as a list of its files; and which files that links to."""
    place = ROOT / path
    if place.is_dir():
        inside = sorted(entry.name for entry in place.iterdir() if entry.suffix in _LANGUAGES)
        here = posixpath.basename(path)
        lines = [f"- [{name}]({here}/{name}.md)" for name in inside]
        return f"# {path}\n\n" + "\n".join(lines) + "\n", {os.path.join(path, name) for name in inside}
    if place.suffix == ".ipynb":
        return _notebook(path), set()
    fence = "`" * 8
    return f"# {path}\n\n{fence}{_LANGUAGES.get(place.suffix, 'text')}\n{place.read_text()}\n{fence}\n", set()


def _notebook(path: str) -> str:
    """A notebook's cells as a page; it is kept without output."""
    parts = []
    for cell in json.loads((ROOT / path).read_text())["cells"]:
        text = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        parts.append(f"```python\n{text}\n```" if is_code else _rewritten(text, path, _source_page(path)))
    return "\n\n".join(parts) + "\n"
