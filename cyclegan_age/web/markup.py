"""HTML and texts of the page. It holds pictures as data URLs, so that the server writes no file for them."""

import base64
import html
import re
from pathlib import Path

from PIL import Image

from cyclegan_age.provenance import Mark
from cyclegan_age.rendering.games import Made
from cyclegan_age.web.files import jpeg

HERE = Path(__file__).parent
TITLE = "Faces by age"
_ENDINGS = {  # by media type
    **{f"image/{ending}": ending for ending in ("png", "webp", "gif", "bmp")},
    **{"image/jpeg": "jpg", "image/tiff": "tif", "image/x-portable-anymap": "ppm", "video/mp4": "mp4"},
}

HEADER = f"""<h1>{TITLE}</h1>
<p>Choose a photograph and move the slider: a network renders the face at that age.</p>"""
LIMITS = """<p><strong>What it is not.</strong> These are synthetic renderings, not predictions of anybody's looks.
Hair and weight hardly change, and some faces get light or dark smears. Results differ by sex and skin colour. Do not
identify, judge or decide about anybody with them, and ask people before you age their face.</p>
<p><strong>What becomes of your picture.</strong> Only this server receives it, and it writes no file of it. Its memory
keeps the cut-out faces and two copies of the photograph, one of at most 1,024 px and one of at most 384 px. It deletes
them when you close this page, or ten minutes after the last use of the slider. An autoencoder also keeps the numbers
that it encodes a face to, until it has encoded 4,096 other faces.</p>"""
MODELS = "Autoencoders, such as caae, give faces of other people, but they have the game of kids."
PICKER = """<div class="drop"><label><span>${title}</span><input type="file" accept="image/*"></label>
<button type="button" class="camera">Camera</button><button type="button" class="snap" hidden>Take the picture</button>
<video hidden muted playsinline aria-label="Camera"></video>
<span class="hint">${hint}</span><span class="name" role="status"></span></div>"""
COMPARE = """<figure><div class="pair"><img class="before" alt="The face as it was given"><img alt="">
<input type="range" min="0" max="100" value="50" aria-label="Before and after: share of the picture shown as given">
</div><figcaption class="ends"><span>as given</span><span class="then"></span></figcaption></figure>"""


def script(name: str) -> str:
    """The text of a script beside this file."""
    return (HERE / f"{name}.js").read_text(encoding="utf-8")


def message(text: str, *, wrong: bool = False) -> str:
    """A line of plain text, with a capital letter; red if something went wrong."""
    return f"<p{' class=wrong' if wrong else ''}>{html.escape(text[:1].upper() + text[1:])}</p>"


def data_url(data: bytes, kind: str) -> str:
    """Bytes of a media type as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_tag(data: bytes, alt: str, kind: str = "image/png") -> str:
    """A picture with its description, both in HTML."""
    return f'<img src="{data_url(data, kind)}" alt="{alt}">'


def pair_of(before: Image.Image, after: Image.Image, then: str, mark: Mark | None) -> dict[str, str]:
    """The values that compare.js shows: two pictures, and the caption of the second."""
    pictures = (("before", jpeg(before)), ("after", jpeg(after, mark)))
    return {name: data_url(data, "image/jpeg") for name, data in pictures} | {"then": then}


def figures(made: Made, mark: Mark | None) -> str:
    """The pictures of a game; a border marks the own age."""
    parts = []
    for name, picture in made.pictures:
        own = name == made.own
        text = html.escape(re.sub(r"^(step|kid)", r"\1 ", name.removeprefix("age")))
        caption = f"{text}, own age" if own else text
        alt = f"{text} years, rendered" if name.startswith("age") else f"{text}, rendered"
        shown = image_tag(jpeg(picture, mark and mark.of(name)), alt, "image/jpeg")
        border = " class=own" if own else ""
        parts.append(f"<figure{border}>{shown}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="strip">{"".join(parts)}</div>'


def file_link(data: bytes, kind: str, name: str, alt: str) -> str:
    """A link that saves a file, and the file itself where browsers show its kind."""
    url, ending = data_url(data, kind), _ENDINGS.get(kind, "bin")
    shown = ""
    if kind.startswith("video/"):
        shown = f'<video src="{url}" controls loop muted autoplay playsinline aria-label="{alt}"></video>'
    elif ending in ("jpg", "png", "webp", "gif", "bmp"):
        shown = f'<img src="{url}" alt="{alt}">'
    return f'<p>{alt}</p>{shown}<a class="save" download="{name}.{ending}" href="{url}">Save {name}.{ending}</a>'
