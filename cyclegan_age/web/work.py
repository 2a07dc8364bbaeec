"""An uploaded picture -> the results. No function keeps a picture after its call, and none depends on HTTP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import DemoConfig, UserError
from cyclegan_age.config.values import is_face
from cyclegan_age.faces.alignment import crop, reframed
from cyclegan_age.faces.detection import Face, NoFace, chosen, detector, turned_text
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.images import BadImage
from cyclegan_age.inference import Ager, Letterboxed, demo_portrait
from cyclegan_age.provenance import Mark, marked
from cyclegan_age.rendering import pictures
from cyclegan_age.rendering.games import Made, aging, kids, morph
from cyclegan_age.rendering.photos import preview, warnings_of
from cyclegan_age.rendering.reliability import age_warning, beyond_text, estimated_age
from cyclegan_age.rendering.sources import clean_name
from cyclegan_age.runs import find_weights, weights_name
from cyclegan_age.web.files import animation, picture_size, png
from cyclegan_age.web.limits import Refused

SHIPPED = ("cyclegan_heads", "cyclegan", "caae")  # weights that the page offers without others
KINDS = {"gif": "image/gif", "mp4": "video/mp4"}
_SHOWN_SIDE = 384  # greatest side in pixels of a face on the page
_LIFE_SIDE = 320  # and in an animation
_MOST_FACES = 24  # faces to choose from on the page, from the left
_REMEDY = "send a photograph that shows a face from the front"


@dataclass(frozen=True, eq=False)
class Seen:
    """What the session of a page keeps of an upload: cut-out faces and two small copies, never the file."""

    faces: list[dict[Frame, Image.Image]]  # aligned crops, RGB, from left to right, in the frame of each model
    ages: list[float]  # estimated, in years
    view: Image.Image  # the photograph, at most 1,024 px, its faces numbered
    note: str = ""  # a sentence on faces that are turned
    whole: Image.Image | None = None  # the photograph for models without ages, RGB, at most 384 px


def load(config: DemoConfig) -> dict[str, Ager]:
    """The models to choose from, by name; each renders one face as a check.

    Raises:
        UserError: there are no such weights, or their model takes no faces.
    """
    agers: dict[str, Ager] = {}
    for one in config.weights or SHIPPED:
        ager = Ager.load(find_weights(one, config.results_dir))
        try:
            ager.age(demo_portrait(ager.frame), ager.code.anchors[0])
            ager.photo_faces.check()
        except UserError as e:
            raise UserError(f"--weights {one}: {e}") from None
        name = clean_name(weights_name(Path(one))) or "cyclegan"
        number, plain = 2, name
        while name in agers:
            name, number = f"{plain}-{number}", number + 1
        agers[name] = ager
    return agers


class Studio:
    """The models, and their methods for pictures.

    Args:
        agers: models by name; the first is the default.
        config: the limits on pictures.
    """

    def __init__(self, agers: Mapping[str, Ager], config: DemoConfig) -> None:
        self.agers = dict(agers)
        self._provenance = config.provenance
        self._most_bytes, self._most_pixels = config.megabytes * 1e6, config.megapixels * 1e6

    def ager(self, model: str) -> Ager:
        """A model by its name; the default model for an empty name.

        Raises:
            Refused: 422, no such model.
        """
        if model and model not in self.agers:
            raise Refused(422, f"model: must be one of {', '.join(self.agers)}")
        return self.agers[model or next(iter(self.agers))]

    def mark(self, model: str = "") -> Mark | None:
        """The provenance mark in the files of a model; see `ager`."""
        return self.ager(model).mark if self._provenance else None

    def said(self, model: str, years: float) -> Mark | None:
        """As `mark`, for a picture at an age, or in the domain of that number."""
        mark, ager = self.mark(model), self.ager(model)
        return mark and (mark.of(ager.caption(years)) if ager.domains else mark.at(years))

    def open(self, data: bytes) -> Photo:
        """Decode an upload, after a check of its size.

        Raises:
            Refused: 413, too many bytes or pixels; 422, not a picture.
        """
        if len(data) > self._most_bytes:
            raise Refused(413, f"larger than {self._most_bytes / 1e6:g} MB; send a smaller file")
        size = picture_size(data)
        if size is None or size[0] * size[1] > self._most_pixels:
            counted = f"{size[0]} x {size[1]} pixels" if size else "far too many pixels"
            raise Refused(413, f"{counted}, more than {self._most_pixels / 1e6:g} million; send a smaller picture")
        try:
            return Photo.read(data)
        except BadImage as e:
            raise Refused(422, f"{e}; send another picture") from None

    def age(
        self, data: bytes, years: float, *, face: str = "all", aligned: bool = False, model: str = ""
    ) -> tuple[bytes, str, str]:
        """A photograph with its faces at an age, in its own format and with its metadata; its media type; a note.

        The note warns of turned faces, of ages that are not reliable, and of years that the model does not know;
        otherwise it is empty.

        Raises:
            Refused: as `open`; 422, no such face or model.
        """
        ager = self.ager(model)
        if ager.domains and years not in range(len(ager.domains)):
            numbers = ", ".join(f"{k} for {name}" for k, name in enumerate(ager.domains))
            raise Refused(422, f"target_age: must be the number of a domain, {numbers}; this model has no ages")
        said, beyond = self.said(model, years), beyond_text(ager, years)
        photo = self.open(data)
        if aligned or ager.domains:
            image = Image.fromarray(as_rgb(photo.upright))
            aged = np.asarray(ager.age(image, years))
            note = "" if ager.domains else age_warning([estimated_age(image, ager.frame)])
            return png(aged, said), "image/png", _joined(beyond, note)
        found, wanted = self._found(photo, face)
        places = [one.place(ager.frame) for one in wanted]
        others = [one.place(ager.frame) for one in found if one not in wanted]
        note = _joined(beyond, _note(photo, wanted))
        photo = photo.with_upright(ager.age_places(photo.upright, places, years, others=others))
        made = marked(photo.encoded(), said)
        return made, Image.MIME.get(photo.format, "application/octet-stream"), note

    def face(
        self, data: bytes, face: str = "largest", aligned: bool = False, model: str = ""
    ) -> tuple[Image.Image, str]:
        """An aligned crop of one face in the frame of a model, of at most 320 px, and a note as in `age`.

        Raises:
            Refused: as `age`.
        """
        if face == "all":
            raise Refused(422, "face: must be largest or a number from 1 on, counted from the left")
        frame = self.ager(model).frame
        photo = self.open(data)
        if not (aligned or self.ager(model).domains):
            wanted = self._found(photo, face)[1]
            return self._crop(photo, wanted[0], frame, _LIFE_SIDE), _note(photo, wanted)
        small = Image.fromarray(as_rgb(photo.upright))
        small.thumbnail((_LIFE_SIDE, _LIFE_SIDE))
        return small, "" if self.ager(model).domains else age_warning([estimated_age(small, frame)])

    def look(self, data: bytes, aligned: bool = False, model: str = "") -> Seen:
        """The faces of an upload; an aligned crop is in the frame of the model. A model without ages searches no faces.

        Raises:
            Refused: as `open`; 422, no face.
        """
        photo = self.open(data)
        rgb = as_rgb(photo.upright)
        small = Image.fromarray(rgb)
        small.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        if self.ager(model).domains:
            return Seen([], [], small, whole=small)
        if aligned:
            own = self.ager(model).frame
            square = Letterboxed.of(small, max(small.size)).square
            crops = {f: small if f == own else Image.fromarray(reframed(square, own, f)) for f in self._frames}
            return Seen([crops], [estimated_age(small, own)], small, whole=small)
        found = self._found(photo, "all")[0][:_MOST_FACES]
        near = [self._crop(photo, face, FRAMES["utkface"], _SHOWN_SIDE) for face in found]
        faces = [{frame: self._crop(photo, face, frame, _SHOWN_SIDE) for frame in self._frames} for face in found]
        ages = [estimated_age(one, FRAMES["utkface"]) for one in near]
        return Seen(faces, ages, preview(rgb, found), turned_text(found), small)

    def strip(self, face: Image.Image, model: str = "", attributes: FaceAttributes | None = None) -> Made:
        """A face at all ages of a model; see `games.aging`."""
        return aging(self.ager(model), face, attributes)

    def life(self, face: Image.Image, kind: str, model: str = "") -> bytes:
        """The life of a face as an animation file.

        Args:
            face: an aligned crop.
            kind: `gif` or `mp4`.
            model: its name; empty for the default.

        Raises:
            Refused: 422, the model has no ages.
        """
        self._with_ages(model)
        mark = self.mark(model)
        return animation(self.ager(model).life(face), kind, mark and mark.of("life"))

    def at(self, face: Image.Image, years: float, model: str = "") -> Image.Image:
        """An aligned face at an age: one pass of the generator, for the page's slider."""
        return self.ager(model).age(face, years)

    def maps(self, face: Image.Image, years: float, layer: str, model: str = "") -> bytes:
        """The channels of a layer as a PNG; see `pictures.feature_grid`.

        Raises:
            Refused: 422, the layer gives no feature map.
        """
        ager = self.ager(model)
        try:
            maps = ager.features(ager.letterbox(face).square, [years], [layer])
        except UserError as e:
            raise Refused(422, str(e)) from None
        return png(pictures.feature_grid(maps[layer][0]))

    def game(self, game: str, faces: tuple[Image.Image, Image.Image], ages: tuple[float, float], model: str) -> Made:
        """Morph or kids with two aligned faces of known ages.

        Raises:
            Refused: 422, kids with a model that has no latent vector, or a model without ages.
        """
        self._with_ages(model)
        attributes = FaceAttributes(ages[0]), FaceAttributes(ages[1])
        try:
            play: Callable[..., Made] = kids if game == "kids" else morph
            return play(self.ager(model), *faces, attributes=attributes)
        except UserError:
            raise Refused(422, "kids: needs an autoencoder, such as caae") from None

    def _with_ages(self, model: str) -> None:
        if self.ager(model).domains:
            raise Refused(422, "this model has no ages; expected a model with ages")

    @property
    def _frames(self) -> set[Frame]:
        return {ager.frame for ager in self.agers.values()}

    def _found(self, photo: Photo, face: str) -> tuple[list[Face], list[Face]]:
        """All faces of a photograph, and the chosen faces."""
        if not is_face(face):
            raise Refused(422, "face: must be all, largest or a number from 1 on, counted from the left")
        found = detector().find(as_rgb(photo.upright))
        try:
            return found, chosen(found, face)
        except NoFace:
            if face.isdigit() and found:
                raise Refused(422, f"face: must be at most {len(found)}, the number of faces found") from None
            raise Refused(422, f"no face found; {_REMEDY}") from None  # without the flags of test.py

    def _crop(self, photo: Photo, face: Face, frame: Frame, side: int) -> Image.Image:
        least = max(ager.image_size for ager in self.agers.values())
        place = face.place(frame)
        return Image.fromarray(crop(as_rgb(photo.upright), place, min(side, max(least, round(place.side)))))


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _note(photo: Photo, faces: list[Face]) -> str:
    return "; ".join(warnings_of(as_rgb(photo.upright), faces))
