"""Findings -> a self-contained page."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from cyclegan_age.audit.find import Finding
from cyclegan_age.html_page import html_page
from cyclegan_age.images import BadImage, open_image

_SHOWN = 24  # of each kind, evenly spaced
_STYLE = (
    "div { display: flex; flex-wrap: wrap; gap: .75rem .5rem; }"
    " figure { margin: 0; width: 8rem; font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; }"
    " figure.pair { width: 16.25rem; } img { width: 8rem; } .pair img + img { margin-left: .25rem; }"
)


def page(root: Path, number: int, findings: Sequence[Finding], plan: Sequence[str] = ()) -> str:
    """Some pictures of each kind; compared pictures stand side by side.

    Args:
        root: the folder.
        number: of pictures in it.
        findings: sorted by kind.
        plan: sentences on `plan.csv`, if there is one.
    """
    kinds = Counter(one.kind for one in findings)
    out = [
        f"<h1>Audit of {escape(root.resolve().name)}</h1>",
        f"<p>{number:,} pictures; audit.csv lists all findings.</p>",
        *([f"<p>plan.csv: {escape(' '.join(plan))}</p>"] if plan else []),
        "<p>"
        + ", ".join(f'<a href="#{i}">{escape(kind)}: {kinds[kind]:,}</a>' for i, kind in enumerate(kinds))
        + "</p>",
    ]
    for i, (kind, count) in enumerate(kinds.items()):
        some = [one for one in findings if one.kind == kind]
        some = [some[k * len(some) // _SHOWN] for k in range(_SHOWN)] if len(some) > _SHOWN else some
        shown = f", of which {len(some)} here" if count > len(some) else ""
        out.append(f'<h2 id="{i}">{escape(kind)}: {count:,}{shown}</h2><div>')
        for one in some:
            files = [one.file, *([one.other] if one.other else [])]
            pictures = "".join(f'<img src="{_thumbnail(file)}" alt="">' for file in files)
            name = escape(str(one.file.relative_to(root)))
            detail = f"<br>{escape(one.detail)}" if one.detail else ""
            mark = ' class="pair"' if one.other else ""
            out.append(f"<figure{mark}>{pictures}<figcaption>{name}{detail}</figcaption></figure>")
        out.append("</div>")
    return html_page("Audit", "\n".join(out), _STYLE)


def _thumbnail(file: Path) -> str:
    """A small JPEG as a data URL; empty for a broken file."""
    try:
        picture = open_image(file)
    except (BadImage, OSError):
        return "data:,"
    picture.thumbnail((192, 192))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
