"""The page: Gradio's blocks over the same worker as the REST service.

Pictures travel inside Gradio's messages, as data URLs: no file is written for them and no route serves files.
"""

import base64
import binascii
import html
import math
import re
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api
from gradio.state_holder import SessionState, StateHolder
from PIL import Image

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import OLDEST, DemoConfig
from cyclegan_age.faces.frames import Frame
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.provenance import Mark
from cyclegan_age.rendering.games import Made
from cyclegan_age.rendering.reliability import age_warning, estimated_age
from cyclegan_age.web.limits import Refused, Worker
from cyclegan_age.web.work import KINDS, Seen, Studio, animation, jpeg, png

HERE = Path(__file__).parent
TITLE = "Faces by age"
_SESSIONS = 64  # pages whose faces are kept at the same time
_SECONDS_KEPT = 600  # that they are kept after the last use of the slider
_QUEUED = 32  # of the page's messages
_ENDINGS = {
    **{f"image/{ending}": ending for ending in ("png", "webp", "gif", "bmp")},
    **{"image/jpeg": "jpg", "image/tiff": "tif", "image/x-portable-anymap": "ppm", "video/mp4": "mp4"},
}
_FONT = ["system-ui", "sans-serif"]

_HEADER = f"""<h1>{TITLE}</h1>
<p>Choose a photograph and move the slider: a network renders the face at that age.</p>"""
_LIMITS = """<p><strong>What it is not.</strong> These are synthetic renderings, not predictions of anybody's looks.
Hair and weight hardly change, and some faces get light or dark smears. Results differ by sex and skin colour. Do not
identify, judge or decide about anybody with them, and ask people before you age their face.</p>
<p><strong>What becomes of your picture.</strong> It goes to this server alone, which writes no file of it. The cut-out
faces stay in its memory until you close this page, ten minutes after their last use at most; an autoencoder keeps the
numbers that it reads off a face for longer, until 4,096 others were read.</p>"""
_MODELS = "Autoencoders, such as caae, give faces of other people, but they have the game of kids."
_PICKER = """<div class="drop"><label><span>${title}</span><input type="file" accept="image/*"></label>
<button type="button" class="camera">Camera</button><button type="button" class="snap" hidden>Take the picture</button>
<video hidden muted playsinline aria-label="Camera"></video>
<span class="hint">${hint}</span><span class="name" role="status"></span></div>"""
_COMPARE = """<figure><div class="pair"><img class="before" alt="The face as it was given"><img alt="">
<input type="range" min="0" max="100" value="50" aria-label="Before and after: share of the picture shown as given">
</div><figcaption class="ends"><span>as given</span><span class="then"></span></figcaption></figure>"""

Handler = Callable[..., Awaitable[list[Any]]]


class _Session(SessionState):
    """Keeps what `gr.State` holds, until the page is closed, and not the values of components: those are pictures."""

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(blocks)
        self.STATE_TTL_WHEN_CLOSED = 0

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass  # they would serve Gradio's links to a page as it is filled in, which are closed


class Sessions(StateHolder):
    """The pages that are open, for a Gradio application whose `state_holder` it becomes."""

    def __getitem__(self, session_id: str) -> SessionState:
        """The session of this name, begun if it is new."""
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        return super().__getitem__(session_id)


def theme() -> Any:
    """Gradio's own look in the system's fonts, so that none is fetched, and in colours that can be read by all."""
    look = gr.themes.Default(
        primary_hue="orange", neutral_hue="zinc", font=_FONT, font_mono=["ui-monospace", "monospace"]
    )
    return look.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
    )


def build(studio: Studio, worker: Worker, config: DemoConfig) -> Any:
    """The page as Gradio's Blocks, to be mounted; `theme()` and page.css belong to it."""
    first = next(iter(studio.agers.values()))
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        held = gr.State(None, time_to_live=_SECONDS_KEPT)
        gr.HTML(_HEADER, elem_classes="page")
        said = gr.HTML(html_template='<div role="status" aria-live="polite">${value}</div>', elem_classes="said")
        with gr.Row():
            with gr.Column(min_width=300):
                picker = _picker("Choose a photograph", "or drop or paste it here", config, pastes=True)
                aligned = gr.Checkbox(label="It is an aligned face crop already")
                model = gr.Dropdown(list(studio.agers), label="Model", info=_MODELS, visible=len(studio.agers) > 1)
                view = gr.HTML(elem_classes="view")
                face = gr.Radio([], label="Face, counted from the left", visible=False)
            with gr.Column(min_width=300):
                years = gr.Slider(**_span(first), step=1, buttons=[], elem_id="years")
                pair = gr.HTML(html_template=_COMPARE, js_on_load=script("compare"), elem_id="pair")
        gr.HTML("<h2>Every age</h2>", elem_classes="page")
        strip = gr.HTML(elem_id="strip")
        with gr.Tabs():
            with gr.Tab("Photograph"):
                everyone = gr.Checkbox(label="Every face in it")
                go_photo = gr.Button("Age the photograph", variant="primary")
                photo = gr.HTML(elem_classes="wide", elem_id="photo")
            with gr.Tab("Life"):
                kind = gr.Radio([("MP4", "mp4"), ("GIF", "gif")], value="mp4", label="File")
                go_life = gr.Button("Render the life", variant="primary")
                life = gr.HTML(elem_classes="wide", elem_id="life")
            with gr.Tab("Games"):
                other = _picker("Choose a second face", "its largest face is taken", config)
                game = gr.Radio(_games(first), value="morph", label="Game")
                go_game = gr.Button("Play", variant="primary")
                played = gr.HTML(elem_classes="wide", elem_id="played")
            with gr.Tab("Layers"):
                layer = gr.Dropdown(first.layers(), value=first.middle_layer, label="Layer")
                go_maps = gr.Button("Show its feature maps", variant="primary")
                maps = gr.HTML(elem_classes="wide", elem_id="maps")
        gr.HTML(_LIMITS, elem_classes="page limits")

        def faces_of(seen: Seen | None, number: int | None, name: str) -> tuple[Image.Image, float]:
            if seen is None:
                raise Refused(422, "no face is kept for this page; choose a photograph")
            if studio.ager(name).domains and seen.whole:
                return seen.whole, math.nan
            if not seen.faces:
                raise Refused(422, "faces were not looked for; choose the photograph again")
            index = min(max((number or 1) - 1, 0), len(seen.faces) - 1)
            return seen.faces[index][studio.ager(name).frame], seen.ages[index]

        def line_of(own: float) -> str:
            if math.isnan(own):
                return "Translated as a whole."
            line, warning = f"Estimated age of the face: about {own:.0f}.", age_warning([own]).partition("; ")[2]
            return f"{line} {warning[:1].upper()}{warning[1:]}." if warning else line

        def shown(seen: Seen | None, number: int | None, at: float, name: str) -> list[Any]:
            one, own = faces_of(seen, number, name)
            made = studio.strip(one, name, FaceAttributes(own))
            pair = _pair(one, studio.at(one, at, name), _then(studio.ager(name), at), studio.said(name, at))
            return [_said(line_of(own)), pair, _figures(made, studio.mark(name))]

        async def look(upload: str | None, crop: bool, name: str, at: float) -> list[Any]:
            def job() -> list[Any]:
                frame = studio.ager(name).frame
                data, ready = _given(upload, crop, frame)
                seen = studio.look(data, ready, name)
                largest = max(range(len(seen.faces)), key=lambda i: seen.faces[i][frame].width, default=0) + 1
                return [seen, largest, *shown(seen, largest, at, name)]

            try:
                seen, number, line, *rest = await worker.run(job)
            except Refused as no:
                hidden = gr.Radio([], value=None, visible=False)
                return [_said(no.text, wrong=True), None, hidden, "", None, "", *[""] * 4]
            several = len(seen.faces) > 1
            own_number = number if seen.faces else None  # the page sends it back, and takes none but a choice
            choice = gr.Radio(list(range(1, len(seen.faces) + 1)), value=own_number, visible=several)
            if not upload:
                own = seen.ages[number - 1] if seen.ages else math.nan
                line = _said(f"An example, until you choose a photograph. {line_of(own)}")
            elif seen.note:
                line = _said(f"{line_of(seen.ages[number - 1])} {seen.note[0].upper()}{seen.note[1:]}.")
            picture = _image(jpeg(seen.view), "The photograph, its faces numbered", "image/jpeg") if upload else ""
            return [line, seen, choice, picture, *rest, *[""] * 4]  # what was made of another picture goes

        @_telling(7)
        async def again(seen: Seen | None, number: int | None, at: float, name: str) -> list[Any]:
            return [*await worker.run(lambda: shown(seen, number, at, name)), *[""] * 4]

        @_telling(4)
        async def other_model(name: str, at: float) -> list[Any]:
            ager = studio.ager(name)
            span = _span(ager)
            slider = gr.Slider(**span | {"value": min(max(at, span["minimum"]), span["value"])})
            return [
                "",
                slider,
                gr.Dropdown(ager.layers(), value=ager.middle_layer),
                gr.Radio(_games(ager), value="morph"),
            ]

        @_telling(3)
        async def slide(seen: Seen | None, number: int | None, at: float, name: str) -> list[Any]:
            one, own = faces_of(seen, number, name)
            aged = await worker.run(lambda: studio.at(one, at, name))
            pair = _pair(one, aged, _then(studio.ager(name), at), studio.said(name, at))
            return [_said(line_of(own)), pair, seen]

        @_telling(2, below=True)
        async def whole(
            upload: str | None, crop: bool, number: int | None, every: bool, at: float, name: str
        ) -> list[Any]:
            data, ready = _given(upload, crop, studio.ager(name).frame)
            which = "all" if every else str(number or 1)
            made, kind, _ = await worker.run(lambda: studio.age(data, at, face=which, aligned=ready, model=name))
            then = _then(studio.ager(name), at)
            file = html.escape(re.sub(r"[^\w.-]+", "-", then.removesuffix(" years")))
            return [_said("The photograph is ready."), _file(made, kind, file, f"The photograph {html.escape(then)}")]

        @_telling(2, below=True)
        async def live(seen: Seen | None, number: int | None, kind: str, name: str) -> list[Any]:
            if kind not in KINDS:
                raise Refused(422, "no such kind of file")
            one, _ = faces_of(seen, number, name)
            made = await worker.run(lambda: studio.life(one, kind, name))
            return [_said("The life is ready."), _file(made, KINDS[kind], "life", "The face from its youngest age on")]

        @_telling(2, below=True)
        async def play(
            seen: Seen | None, number: int | None, upload: str | None, crop: bool, game: str, name: str
        ) -> list[Any]:
            if not upload:
                raise Refused(422, "choose a second face first")
            frame = studio.ager(name).frame
            data, _ = _given(upload, crop, frame)
            one, own = faces_of(seen, number, name)

            def job() -> tuple[Made, bytes]:
                second, _ = studio.face(data, aligned=crop, model=name)
                made = studio.game(game, (one, second), (own, estimated_age(second, frame)), name)
                mark = studio.mark(name)
                said = mark and mark.of(made.caption)
                return made, animation(made.frames, "mp4", said) if made.frames else b""

            made, film = await worker.run(job)
            shown = _file(film, KINDS["mp4"], "morph", "From the first face to the second and back") if film else ""
            return [_said(f"{made.caption[0].upper()}{made.caption[1:]}."), _figures(made, studio.mark(name)) + shown]

        @_telling(2, below=True)
        async def inside(seen: Seen | None, number: int | None, at: float, layer: str, name: str) -> list[Any]:
            one, _ = faces_of(seen, number, name)
            sheet = await worker.run(lambda: studio.maps(one, at, layer, name))
            alt = f"Channels of {html.escape(f'{layer} {_then(studio.ager(name), at)}')}, each on its own scale"
            return [_said(f"{alt}."), _image(sheet, alt)]

        def on(event: Any, fn: Any, inputs: list[Any], outputs: list[Any], shows: Any, **how: Any) -> Any:
            return event(fn, inputs, outputs, show_progress_on=shows, api_visibility="private", **how)

        chosen = [held, face, years, model]
        for event in (picker.upload, aligned.input, blocks.load):
            fresh = [said, held, face, view, pair, strip, photo, life, played, maps]
            on(event, look, [picker, aligned, model, years], fresh, [pair, strip])
        on(years.input, slide, chosen, [said, pair, held], pair, trigger_mode="always_last", show_progress="hidden")
        anew = [said, pair, strip, photo, life, played, maps]
        on(face.input, again, chosen, anew, [pair, strip])
        changed = on(model.input, other_model, [model, years], [said, years, layer, game], years)
        on(changed.then, again, chosen, anew, [pair, strip])
        on(go_photo.click, whole, [picker, aligned, face, everyone, years, model], [said, photo], photo)
        on(go_life.click, live, [held, face, kind, model], [said, life], life)
        on(go_game.click, play, [held, face, other, aligned, game, model], [said, played], played)
        on(go_maps.click, inside, [held, face, years, layer, model], [said, maps], maps)

        async def age(image: str, target_age: float, face: str = "all", aligned: bool = False, model: str = "") -> str:
            """A picture in Base64 at an age, in Base64 and its own format."""
            try:
                if not isinstance(target_age, int | float) or not 0 <= target_age <= OLDEST:
                    raise Refused(422, f"target_age: must be a number from 0 to {OLDEST}")
                data = _decoded(image)
                job = partial(studio.age, data, target_age, face=face, aligned=aligned, model=model)
                made, _, _ = await worker.run(job)
            except Refused as no:
                raise gr.Error(html.escape(no.text), print_exception=False) from None
            return base64.b64encode(made).decode()

        api(age, api_name="age")
    blocks.queue(max_size=_QUEUED, default_concurrency_limit=None)
    blocks.state_session_capacity = _SESSIONS
    return blocks


def script(name: str) -> str:
    """The text of a script beside this file."""
    return (HERE / f"{name}.js").read_text(encoding="utf-8")


def _picker(title: str, hint: str, config: DemoConfig, *, pastes: bool = False) -> Any:
    props: dict[str, Any] = {"title": title, "hint": hint, "most": config.megabytes * 1e6, "pastes": pastes}
    return gr.HTML(html_template=_PICKER, js_on_load=script("picker"), **props)


def _span(ager: Ager) -> dict[str, Any]:
    """What the slider of a model is like: over its ages, or the numbers of its domains, if they are several."""
    low, high = ager.code.anchors[0], ager.code.anchors[-1]
    last = len(ager.domains) - 1 if ager.domains else high  # of one domain Gradio's slider, hidden, still goes to 1
    label = ", ".join(f"{k}: to {name}" for k, name in enumerate(ager.domains)) or "Age in years"
    return {"minimum": low, "maximum": high, "value": last, "label": label, "visible": len(ager.domains) != 1}


def _then(ager: Ager, years: float) -> str:
    """`at 50 years`, or of a model without ages `to B`."""
    return ager.caption(years) if ager.domains else f"at {ager.caption(years)}"


def _games(ager: Ager) -> list[tuple[str, str]]:
    kids = [("Kids: children of the two faces", "kids")] if ager.encoder.latent_size else []
    return [("Morph: from the one face to the other", "morph"), *kids]


def _telling(outputs: int, *, below: bool = False) -> Callable[[Handler], Handler]:
    """Have what a handler refuses said on the page, in the first of its outputs, and the others left as they are.

    Args:
        outputs: how many it has.
        below: it has two, and the second shows it, too, instead of what was made before.
    """

    def around(handler: Handler) -> Handler:
        @wraps(handler)
        async def told(*args: Any) -> list[Any]:
            try:
                return await handler(*args)
            except Refused as no:
                text = _said(no.text, wrong=True)
                return [text, text] if below else [text, *(gr.skip() for _ in range(outputs - 1))]

        return told

    return around


def _decoded(text: str) -> bytes:
    """Base64, or a data URL, -> bytes."""
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "not a picture in Base64") from None


def _given(upload: str | None, aligned: bool, frame: Frame) -> tuple[bytes, bool]:
    """The bytes chosen on the page and whether they are an aligned crop; without any those of the built-in portrait."""
    return (_decoded(upload), aligned) if upload else (png(demo_portrait(frame)), True)


def _said(text: str, *, wrong: bool = False) -> str:
    return f"<p{' class=wrong' if wrong else ''}>{html.escape(text[:1].upper() + text[1:])}</p>"


def data_url(data: bytes, kind: str) -> str:
    """Bytes of a media type as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _image(data: bytes, alt: str, kind: str = "image/png") -> str:
    return f'<img src="{data_url(data, kind)}" alt="{alt}">'


def _pair(before: Image.Image, after: Image.Image, then: str, said: Mark | None) -> dict[str, str]:
    """What compare.js shows."""
    pictures = (("before", jpeg(before)), ("after", jpeg(after, said)))
    return {name: data_url(data, "image/jpeg") for name, data in pictures} | {"then": then}


def _figures(made: Made, mark: Mark | None) -> str:
    """The pictures of a game, the one of the own age framed."""
    parts = []
    for name, picture in made.pictures:
        own = name == made.own
        text = html.escape(re.sub(r"^(step|kid)", r"\1 ", name.removeprefix("age")))
        caption = f"{text}, own age" if own else text
        alt = f"{text} years, rendered" if name.startswith("age") else f"{text}, rendered"
        parts.append(
            f"<figure{' class=own' if own else ''}>{_image(jpeg(picture, mark and mark.of(name)), alt, 'image/jpeg')}"
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'<div class="strip">{"".join(parts)}</div>'


def _file(data: bytes, kind: str, name: str, alt: str) -> str:
    """A picture or film, if browsers show such, and a link that saves it."""
    url, ending = data_url(data, kind), _ENDINGS.get(kind, "bin")
    shown = ""
    if kind.startswith("video/"):
        shown = f'<video src="{url}" controls loop muted autoplay playsinline aria-label="{alt}"></video>'
    elif ending in ("jpg", "png", "webp", "gif", "bmp"):
        shown = f'<img src="{url}" alt="{alt}">'
    return f'<p>{alt}</p>{shown}<a class="save" download="{name}.{ending}" href="{url}">Save {name}.{ending}</a>'
