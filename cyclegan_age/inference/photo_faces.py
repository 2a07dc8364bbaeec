"""Faces of photographs: their crops for the generator, and its changes of them, ready for blending."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import TrainConfig, check_strengths
from cyclegan_age.faces.alignment import Place, crop
from cyclegan_age.faces.blending import Change, Pixels
from cyclegan_age.faces.files import as_rgb
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.faces.heads import MARGIN, SIZE, HeadMask, with_strengths
from cyclegan_age.images import Picture, to_float
from cyclegan_age.inference.engine import Engine
from cyclegan_age.models import load_parser
from cyclegan_age.networks.parsers import FaceParser


class PhotoFaces:
    """Crops faces of a photograph and computes their masked changes, which `faces.blending.blend` applies.

    A photograph is uint8 or uint16 (H, W, 1 or 3), upright.

    Args:
        engine: renders.
        frame: of its pictures.
        parser: finds heads in FFHQ's frame; without it the shipped one does.
    """

    def __init__(self, engine: Engine, frame: Frame, parser: FaceParser | None = None) -> None:
        self._engine, self._frame, self._parser = engine, frame, parser

    def check(self, strengths: Mapping[str, float] | None = None) -> None:
        """Raise the errors of `heads` and of strengths early.

        Raises:
            UserError: the face parser is missing, or see `changes`.
        """
        heads = self.heads(np.zeros((64, 64, 3), np.uint8), [Place(0j, 64 + 0j)])
        self._masked(
            Change(np.zeros((1, 1, 3), np.float32), replaces=bool(self._engine.encoder.latent_size)),
            heads[0],
            strengths,
        )

    def squares(self, pixels: Pixels, places: Sequence[Place]) -> Picture:
        """The generator's pictures uint8 (N, S, S, 3) of N faces; see `faces.detection.Face.place`."""
        size = self._engine.image_size
        rgb = as_rgb(pixels)
        return np.array([crop(rgb, place, size) for place in places], np.uint8).reshape(-1, size, size, 3)

    def heads(self, pixels: Pixels, places: Sequence[Place]) -> list[HeadMask | None]:
        """The regions to blend the changes of N faces into; None for their ellipses.

        Raises:
            UserError: FFHQ's frame, and the face parser is missing.
        """
        if self._frame == FRAMES["utkface"]:
            return [None] * len(places)
        if self._frame != FRAMES["ffhq"]:
            return [HeadMask.ellipse(self._frame)] * len(places)
        if self._parser is None:
            self._parser = load_parser("face_parser", TrainConfig()).to(self._engine.device)
            wide = self._parser.input_size * (1 + 2 * MARGIN)  # heads at their size in the parser's training
            self._parser.input_size = 16 * round(wide / 16)
        heads: list[HeadMask | None] = []
        rgb = as_rgb(pixels)
        for place in places:
            picture = crop(rgb, place.widened(MARGIN), SIZE)
            with torch.inference_mode():
                probabilities = self._parser.probabilities(to_float(picture[None]).to(self._engine.device), SIZE)[0]
            heads.append(HeadMask.of(picture, probabilities.cpu().numpy()))
        return heads

    def changes(
        self,
        squares: Picture,
        heads: Sequence[HeadMask | None],
        ages: Sequence[float],
        *,
        attributes: Sequence[FaceAttributes] | None = None,
        strengths: Mapping[str, float] | None = None,
        batch_size: int = 16,
    ) -> list[list[Change]]:
        """The changes of N faces at each of K ages, within their heads: K lists of N.

        Args:
            squares: uint8 (N, S, S, 3), by `squares`.
            heads: N, by `heads`.
            ages: in years.
            attributes: the faces' own ages and sexes, for the models that use them.
            strengths: as `change` in `Ager.age_photo`.
            batch_size: faces per forward pass.

        Raises:
            UserError: a strength that cannot be given, or weights that make faces from noise alone.
            ValueError: years are no age.
        """
        check_strengths(strengths or {})
        count, many = len(squares), np.concatenate([squares] * len(ages))
        years = [one for one in ages for _ in squares]
        found = self._engine.changes(many, years, batch_size, [*attributes] * len(ages) if attributes else None)
        masked = [self._masked(change, heads[i % count], strengths) for i, change in enumerate(found)]
        return [masked[i * count : (i + 1) * count] for i in range(len(ages))]

    def _masked(self, change: Change, head: HeadMask | None, strengths: Mapping[str, float] | None) -> Change:
        return with_strengths(change, strengths or {}) if head is None else head.restrict(change, strengths or {})
