"""What the page does at an event: values of its components -> their new values, by the worker of the REST service."""

import base64
import binascii
import html
import math
import re
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any

import gradio as gr
from PIL import Image

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import OLDEST
from cyclegan_age.faces.frames import Frame
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.rendering.games import Made
from cyclegan_age.rendering.reliability import age_warning, estimated_age
from cyclegan_age.web.files import animation, jpeg, png
from cyclegan_age.web.limits import Refused, Worker
from cyclegan_age.web.markup import figures, file_link, image_tag, message, pair_of
from cyclegan_age.web.work import KINDS, Seen, Studio

Handler = Callable[..., Awaitable[list[Any]]]


def games(ager: Ager) -> list[tuple[str, str]]:
    """The games of a model: text and name."""
    kids = [("Kids: children of the two faces", "kids")] if ager.encoder.latent_size else []
    return [("Morph: from the one face to the other", "morph"), *kids]


def span(ager: Ager) -> dict[str, Any]:
    """Arguments of the slider of a model: over its ages, or the numbers of its domains, if there are several."""
    low, high = ager.code.anchors[0], ager.code.anchors[-1]
    last = len(ager.domains) - 1 if ager.domains else high  # of one domain Gradio's slider, hidden, still goes to 1
    label = ", ".join(f"{k}: to {name}" for k, name in enumerate(ager.domains)) or "Age in years"
    return {"minimum": low, "maximum": high, "value": last, "label": label, "visible": len(ager.domains) != 1}


def _shows_refusals(outputs: int, *, below: bool = False) -> Callable[[Handler], Handler]:
    """Show the text of a refusal in the first output of a handler, and leave the other outputs unchanged.

    Args:
        outputs: number of outputs.
        below: there are two outputs, and the second shows the text, too, instead of the previous result.
    """

    def around(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(*args: Any) -> list[Any]:
            try:
                return await handler(*args)
            except Refused as no:
                text = message(no.text, wrong=True)
                return [text, text] if below else [text, *(gr.skip() for _ in range(outputs - 1))]

        return guarded

    return around


class Handlers:
    """The functions of the page.

    Their arguments are values of its components: `seen` is what the session keeps of an upload, `number` counts its
    faces from 1, `at` is an age in years or the number of a domain, `name` is that of a model.

    Args:
        studio: renders.
        worker: does the jobs.
    """

    def __init__(self, studio: Studio, worker: Worker) -> None:
        self._studio, self._worker = studio, worker

    async def look(self, upload: str | None, crop: bool, name: str, at: float) -> list[Any]:
        """Find the faces of an upload and show the largest; without an upload show the built-in portrait."""

        def job() -> list[Any]:
            frame = self._studio.ager(name).frame
            data, ready = _given(upload, crop, frame)
            seen = self._studio.look(data, ready, name)
            largest = max(range(len(seen.faces)), key=lambda i: seen.faces[i][frame].width, default=0) + 1
            return [seen, largest, *self._shown(seen, largest, at, name)]

        try:
            seen, number, line, *rest = await self._worker.run(job)
        except Refused as no:
            hidden = gr.Radio([], value=None, visible=False)
            return [message(no.text, wrong=True), None, hidden, "", None, "", *[""] * 4]
        several = len(seen.faces) > 1
        own_number = number if seen.faces else None  # the page sends it back, and takes none but a choice
        choice = gr.Radio(list(range(1, len(seen.faces) + 1)), value=own_number, visible=several)
        if not upload:
            own = seen.ages[number - 1] if seen.ages else math.nan
            line = message(f"An example, until you choose a photograph. {_age_line(own)}")
        elif seen.note:
            line = message(f"{_age_line(seen.ages[number - 1])} {seen.note[0].upper()}{seen.note[1:]}.")
        numbered = image_tag(jpeg(seen.view), "The photograph, its faces numbered", "image/jpeg") if upload else ""
        return [line, seen, choice, numbered, *rest, *[""] * 4]  # results of another picture are removed

    @_shows_refusals(7)
    async def again(self, seen: Seen | None, number: int | None, at: float, name: str) -> list[Any]:
        """Show another face or model, and remove the previous results."""
        return [*await self._worker.run(lambda: self._shown(seen, number, at, name)), *[""] * 4]

    @_shows_refusals(10)
    async def other_model(self, seen: Seen | None, number: int | None, at: float, name: str) -> list[Any]:
        """As `again`, and adapt the slider, the layers and the games to the model.

        In one event: the slider's old age is outside the new range, and Gradio would refuse it in a second one.
        """
        ager = self._studio.ager(name)
        own = span(ager)
        at = min(max(at, own["minimum"]), own["value"])
        shown = await self.again(seen, number, at, name)
        layers = gr.Dropdown(ager.layers(), value=ager.middle_layer)
        offered = games(ager)
        # The chosen game stays where it can: the answer may come after the next choice.
        game = gr.Radio(offered) if len(offered) > 1 else gr.Radio(offered, value="morph")
        return [*shown, gr.Slider(**own | {"value": at}), layers, game]

    @_shows_refusals(3)
    async def slide(self, seen: Seen | None, number: int | None, at: float, name: str) -> list[Any]:
        """Show the face at the age of the slider."""
        one, own = self._face(seen, number, name)
        pair = await self._worker.run(lambda: self._pair(one, at, name))
        return [message(_age_line(own)), pair, seen]

    @_shows_refusals(2, below=True)
    async def photograph(
        self, upload: str | None, crop: bool, number: int | None, every: bool, at: float, name: str
    ) -> list[Any]:
        """Age one face or every face of the photograph, as a file."""
        data, ready = _given(upload, crop, self._studio.ager(name).frame)
        which = "all" if every else str(number or 1)
        job = partial(self._studio.age, data, at, face=which, aligned=ready, model=name)
        made, kind, _ = await self._worker.run(job)
        when = _when(self._studio.ager(name), at)
        file = html.escape(re.sub(r"[^\w.-]+", "-", when.removesuffix(" years")))
        alt = f"The photograph {html.escape(when)}"
        return [message("The photograph is ready."), file_link(made, kind, file, alt)]

    @_shows_refusals(2, below=True)
    async def life(self, seen: Seen | None, number: int | None, kind: str, name: str) -> list[Any]:
        """Render the face from the first to the last age, as a file."""
        if kind not in KINDS:
            raise Refused(422, f"file: must be one of {', '.join(KINDS)}")
        one, _ = self._face(seen, number, name)
        made = await self._worker.run(lambda: self._studio.life(one, kind, name))
        alt = "The face from its youngest age on"
        return [message("The life is ready."), file_link(made, KINDS[kind], "life", alt)]

    @_shows_refusals(2, below=True)
    async def play(
        self, seen: Seen | None, number: int | None, upload: str | None, crop: bool, game: str, name: str
    ) -> list[Any]:
        """Play a game with the face and the largest of a second upload."""
        if not upload:
            raise Refused(422, "choose a second face first")
        frame, studio = self._studio.ager(name).frame, self._studio
        data, _ = _given(upload, crop, frame)
        one, own = self._face(seen, number, name)

        def job() -> tuple[Made, bytes]:
            second, _ = studio.face(data, aligned=crop, model=name)
            made = studio.game(game, (one, second), (own, estimated_age(second, frame)), name)
            mark = studio.mark(name)
            said = mark and mark.of(made.caption)
            return made, animation(made.frames, "mp4", said) if made.frames else b""

        made, film = await self._worker.run(job)
        alt = "From the first face to the second and back"
        shown = file_link(film, KINDS["mp4"], "morph", alt) if film else ""
        return [message(f"{made.caption}."), figures(made, studio.mark(name)) + shown]

    @_shows_refusals(2, below=True)
    async def inside(self, seen: Seen | None, number: int | None, at: float, layer: str, name: str) -> list[Any]:
        """Show the channels of a layer."""
        one, _ = self._face(seen, number, name)
        sheet = await self._worker.run(lambda: self._studio.maps(one, at, layer, name))
        alt = f"Channels of {html.escape(f'{layer} {_when(self._studio.ager(name), at)}')}, each on its own scale"
        return [message(f"{alt}."), image_tag(sheet, alt)]

    async def age(
        self, image: str, target_age: float, face: str = "all", aligned: bool = False, model: str = ""
    ) -> str:
        """A picture in Base64 at an age, in Base64 and its own format."""
        try:
            if not isinstance(target_age, int | float) or not 0 <= target_age <= OLDEST:
                raise Refused(422, f"target_age: must be a number from 0 to {OLDEST}")
            data = _decoded(image)
            job = partial(self._studio.age, data, target_age, face=face, aligned=aligned, model=model)
            made, _, _ = await self._worker.run(job)
        except Refused as no:
            raise gr.Error(html.escape(no.text), print_exception=False) from None
        return base64.b64encode(made).decode()

    def _face(self, seen: Seen | None, number: int | None, name: str) -> tuple[Image.Image, float]:
        """A face that the session keeps, and its estimated age in years; NaN of a picture translated as a whole."""
        if seen is None:
            raise Refused(422, "the session keeps no face; choose a photograph")
        if self._studio.ager(name).domains and seen.whole:
            return seen.whole, math.nan
        if not seen.faces:
            raise Refused(422, "the photograph was not searched for faces; choose it again")
        index = min(max((number or 1) - 1, 0), len(seen.faces) - 1)
        return seen.faces[index][self._studio.ager(name).frame], seen.ages[index]

    def _shown(self, seen: Seen | None, number: int | None, at: float, name: str) -> list[Any]:
        """The line, the pair and the strip of a face."""
        one, own = self._face(seen, number, name)
        made = self._studio.strip(one, name, FaceAttributes(own))
        return [message(_age_line(own)), self._pair(one, at, name), figures(made, self._studio.mark(name))]

    def _pair(self, one: Image.Image, at: float, name: str) -> dict[str, str]:
        studio = self._studio
        return pair_of(one, studio.at(one, at, name), _when(studio.ager(name), at), studio.said(name, at))


def _age_line(own: float) -> str:
    """The sentence on the estimated age of a face, in years, or NaN."""
    if math.isnan(own):
        return "Translated as a whole."
    line, warning = f"Estimated age of the face: about {own:.0f}.", age_warning([own]).partition("; ")[2]
    return f"{line} {warning[:1].upper()}{warning[1:]}." if warning else line


def _when(ager: Ager, at: float) -> str:
    """`at 50 years`, or of a model without ages `to B`."""
    return ager.caption(at) if ager.domains else f"at {ager.caption(at)}"


def _decoded(text: str) -> bytes:
    """Base64, or a data URL, -> bytes."""
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "expected a picture in Base64") from None


def _given(upload: str | None, aligned: bool, frame: Frame) -> tuple[bytes, bool]:
    """The uploaded bytes and whether they are an aligned crop; without an upload those of the built-in portrait."""
    return (_decoded(upload), aligned) if upload else (png(demo_portrait(frame)), True)
