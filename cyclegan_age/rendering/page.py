"""What was rendered -> the page that shows it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from cyclegan_age.config import needs
from cyclegan_age.provenance import Mark
from cyclegan_age.rendering import pictures
from cyclegan_age.rendering.games import Made

with needs("dominate"):
    import dominate
    from dominate import tags
    from dominate.util import raw

FACES_PER_PAGE = 100


@dataclass(kw_only=True)
class Section:
    """What the page shows of one face; paths are relative to the page's folder, with forward slashes."""

    title: str  # the user's name of the picture
    input: str = ""
    notes: list[str] = field(default_factory=list)
    ages: list[tuple[str, str]] = field(default_factory=list)  # caption, as "50 years", path
    sheets: list[tuple[str, str]] = field(default_factory=list)  # what it shows, path
    gif: str = ""
    mp4: str = ""


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1b1f; --soft: #5d5d66; --line: #d9d9df; }
@media (prefers-color-scheme: dark) { :root { --back: #17171b; --text: #ececf0; --soft: #a3a3ad; --line: #36363d; } }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
header p, figcaption { color: var(--soft); } header p { margin: .2rem 0; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
h2 { font-size: 1.1rem; overflow-wrap: anywhere; }
.ages { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .75rem; }
figure { margin: 0 0 .75rem; } figcaption { font-size: .85rem; }
img, video { max-width: 100%; height: auto; border-radius: .25rem; } .ages img, video { width: 100%; }
video { max-width: 16rem; } nav a { margin-right: .75rem; } a { color: inherit; }
"""


def write_pages(folder: Path, sections: Sequence[Section], facts: Sequence[str]) -> Path:
    """Write the gallery, `FACES_PER_PAGE` sections to a page; gives its first page."""
    count = math.ceil(len(sections) / FACES_PER_PAGE)
    names = ["index.html", *(f"page-{i}.html" for i in range(2, count + 1))]
    for old in folder.glob("page-*.html"):
        if old.name not in names and re.fullmatch(r"page-\d+\.html", old.name):
            old.unlink()
    for i, name in reversed(list(enumerate(names))):
        part = sections[i * FACES_PER_PAGE : (i + 1) * FACES_PER_PAGE]
        text = gallery_page(title="Faces by age", facts=facts, sections=part, pages=names, current=i)
        pictures.save_text(text, folder / name)
    return folder / "index.html"


def write_made(folder: Path, made: Made, *, title: str, facts: Sequence[str], mark: Mark | None = None) -> Path:
    """Write what a game made, and a page that shows it; gives the page.

    A mark is that of its pictures, the sheet and the animation, each with what it is.

    Raises:
        UserError: a package is missing: dominate, or for an animation av.
    """
    for name, picture in made.pictures:
        pictures.save_png(picture, folder / f"{name}.png", mark=mark and mark.of(name))
    whole = mark and mark.of(made.caption)
    pictures.save_png(made.sheet, folder / "sheet.png", mark=whole)
    section = Section(title=title, notes=made.notes, sheets=[(made.caption, "sheet.png")])
    if made.frames:
        section.gif, section.mp4 = "morph.gif", "morph.mp4"
        pictures.save_gif(made.frames, folder / section.gif, mark=whole)
        pictures.save_mp4(made.frames, folder / section.mp4, mark=whole)
    page = folder / "index.html"
    pictures.save_text(gallery_page(title=title, facts=facts, sections=[section]), page)
    return page


def document(title: str, style: str) -> dominate.document:
    """An empty page with its style sheet."""
    page = dominate.document(title=title, lang="en")
    with page.head:
        tags.meta(charset="utf-8")
        tags.meta(name="viewport", content="width=device-width, initial-scale=1")
        tags.style(raw(style))
    return page


def gallery_page(
    *,
    title: str,
    facts: Sequence[str],  # lines under the heading: weights, date, count, speed
    sections: Sequence[Section],
    pages: Sequence[str] = (),  # file names of all pages, where there are several
    current: int = 0,  # index of this page in `pages`
) -> str:
    """The text of a page that opens from disk: relative links, no scripts, nothing loaded from elsewhere."""
    page = document(title, _STYLE)
    with page, tags.main():
        with tags.header():
            tags.h1(title)
            for fact in facts:
                tags.p(fact)
            tags.p("These are synthetic renderings, not predictions of anybody's future looks.")
        _page_links(pages, current)
        for section in sections:
            _section(section)
        _page_links(pages, current)
    return str(page.render())


def _page_links(pages: Sequence[str], current: int) -> None:
    if len(pages) > 1:
        with tags.nav():
            for i, name in enumerate(pages):
                tags.strong(str(i + 1)) if i == current else tags.a(str(i + 1), href=quote(name))


def _section(face: Section) -> None:
    with tags.section():
        tags.h2(face.title)
        for note in face.notes:
            tags.p(note)
        with tags.div(cls="ages"):
            if face.input:
                _figure("input", face.input, f"{face.title}, input")
            for caption, path in face.ages:
                _figure(caption, path, f"{face.title} {'' if caption.startswith('to ') else 'at '}{caption}")
        if face.mp4:
            with tags.figure():
                with tags.video(controls=True, loop=True, muted=True, playsinline=True, preload="metadata"):
                    tags.source(src=quote(face.mp4))
                with tags.figcaption("life " if face.gif else "video "):
                    if face.gif:
                        tags.a("GIF", href=quote(face.gif))
                    tags.a(face.mp4.rpartition(".")[2].upper(), href=quote(face.mp4))
        for name, path in face.sheets:
            _figure(name, path, f"{face.title}, {name}")


def _figure(caption: str, path: str, alt: str) -> None:
    with tags.figure():
        with tags.a(href=quote(path)):
            tags.img(src=quote(path), alt=alt, loading="lazy")
        tags.figcaption(caption)
