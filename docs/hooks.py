"""What MkDocs is told beyond mkdocs.yml: the pages outside docs/, and a check of the finished site.

README.md is the site's first page, datasets/README.md the page datasets.md; links are changed to fit.
"""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

log = logging.getLogger("mkdocs.hooks")  # a warning of it fails `mkdocs build --strict`

OUTSIDE = {"README.md": "index.md", "datasets/README.md": "datasets.md", "LICENSE": "license.md"}
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)")


def _moved(text: str, folder: str, pages: dict[str, str]) -> str:
    """The text of a file in `folder` with its links as they are in docs/."""

    def link(found: re.Match[str]) -> str:
        parts: list[str] = [folder] if folder else []
        for part in found[1].split("/"):
            parts = parts[:-1] if part == ".." else [*parts, part]
        path = "/".join(parts)
        return pages.get(path) or path.removeprefix("docs/")

    return LINK.sub(link, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    root = Path(config.config_file_path).parent
    for source, page in OUTSIDE.items():
        text = _moved((root / source).read_text(encoding="utf-8"), str(Path(source).parent).strip("."), OUTSIDE)
        inclusion = InclusionLevel.NOT_IN_NAV if source == "LICENSE" else InclusionLevel.INCLUDED
        files.append(File.generated(config, page, content=text, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links out of docs/ to the pages made of those files."""
    return _moved(markdown, "docs", OUTSIDE) if page.file.src_uri not in OUTSIDE.values() else markdown


class _Page(HTMLParser):
    """The anchors of a page, where its links lead, and what a browser loads with it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])
        elif tag in ("script", "img", "iframe", "source", "video") and "src" in given:
            self.loads.append(given["src"])


def on_post_build(config: Any, **_: Any) -> None:
    """Warn of links that lead nowhere, and of what would be loaded from other servers."""
    site = Path(config.site_dir).resolve()
    pages = {file.resolve(): _Page(file) for file in site.rglob("*.html")}
    for file, page in pages.items():
        if file.name == "404.html":  # its links are from the site's root
            continue
        for link in (*page.links, *page.loads):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                if link in page.loads and url.scheme != "data":
                    log.warning("%s loads %s from another server", file.relative_to(site), link)
                continue
            target = (file.parent / unquote(url.path)).resolve() if url.path else file
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                log.warning("%s links to %s, which is not there", file.relative_to(site), link)
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].anchors:
                log.warning("%s links to %s, which has no such heading", file.relative_to(site), link)
    log.info("%d pages and %d links checked", len(pages), sum(len(page.links) for page in pages.values()))
