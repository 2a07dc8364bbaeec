"""The frame of self-contained HTML pages."""

from html import escape

_STYLE = (
    ":root { color-scheme: light dark; }"
    " body { font: 1rem/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 76rem; padding: 0 1rem; } "
)


def html_page(title: str, body: str, style: str) -> str:
    """A page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS, added to the common one.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'
