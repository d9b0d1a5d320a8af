"""docs/ as a site: it builds without a warning, every page is found in it, and it asks nobody for anything."""

import os
import re
import subprocess
import sys
from html import unescape
from urllib.parse import unquote

import pytest

from tests.helpers.documents import ROOT

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stdout + ended.stderr, ended.stdout + ended.stderr
    return out


def test_every_page_is_in_the_menu(site):
    index = (site / "index.html").read_text()
    menu = set(re.findall(r'<a href="([\w.-]+\.html)" class="md-nav__link', index))
    pages = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")}
    assert menu >= pages | {"changelog.html", "contributing.html"}


def test_the_site_needs_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="(\w+:[^"]*)"', page.read_text())
        assert not [address for address in loaded if not address.startswith("data:")], page.name


def test_links_lead_to_files_of_the_site(site):
    for page in site.glob("*.html"):
        if page.name == "404.html":  # whose links are those of a server's root
            continue
        links = re.findall(r'\b(?:src|href)="(?!\w+:)([^"#?]+)', page.read_text())
        missing = {link for link in links if not (page.parent / unquote(unescape(link))).exists()}
        assert not missing, page.name
    assert "test_draws.py.html" in (site / "fidelity.html").read_text()  # a file outside docs/


def test_the_reference_tells_what_the_docstrings_do(site):
    text = (site / "reference.html").read_text()
    for name in ("loaders.make_loader", "fastintl.INTLLoss", "fastintl.load_backbone"):
        assert f'id="{name}"' in text
    assert "images in a batch, over all ranks" in text and ":::" not in text
