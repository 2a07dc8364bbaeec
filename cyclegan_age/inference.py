"""A picture and an age in years -> a picture: the facade under the command line, notebooks and the browser."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut
from torch import Tensor, nn

from cyclegan_age.ages import AgeCode, parse_group
from cyclegan_age.config import CycleGANConfig, CycleGANPairConfig, TrainConfig, UserError
from cyclegan_age.features import Taps, layer_names, life_frames
from cyclegan_age.images import Picture, to_float, to_uint8
from cyclegan_age.images import to_rgb as to_rgb
from cyclegan_age.models import cyclegan, cyclegan_pair
from cyclegan_age.runs import Snapshot, find_weights, load_snapshot

_PORTRAIT_BOX = (170, 68, 282, 180)  # puts her eyes at (0.30, 0.29) and (0.68, 0.32) of the square


@dataclass(frozen=True)
class Fitted:
    """A picture brought to a network's square.

    The longer side becomes the square's; the rest of the square repeats the edge.
    """

    square: Picture  # uint8 (S, S, 3)
    box: tuple[int, int, int, int]  # left, top, right, bottom of the picture in the square
    size: tuple[int, int]  # width and height of the picture before

    @classmethod
    def fit(cls, image: Image.Image, image_size: int) -> "Fitted":
        """Fit an RGB picture of any size into `image_size` pixels."""
        scale = image_size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        left, top = (image_size - width) // 2, (image_size - height) // 2
        small = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
        rest = ((top, image_size - height - top), (left, image_size - width - left), (0, 0))
        return cls(np.pad(small, rest, mode="edge"), (left, top, left + width, top + height), image.size)

    def unfit(self, square: Picture, image: Image.Image) -> Image.Image:
        """What a network made of the square -> a picture of the first size.

        Where `image`, the picture fitted before, is larger than the square, the change between the squares is enlarged
        and added to it, so that its detail stays. Otherwise the new square is scaled down.
        """
        left, top, right, bottom = self.box
        before, after = self.square[top:bottom, left:right], square[top:bottom, left:right]
        if max(self.size) <= len(self.square):
            return Image.fromarray(after).resize(self.size, Image.Resampling.LANCZOS)
        out = np.empty((self.size[1], self.size[0], 3), dtype=np.uint8)
        full = np.asarray(image)
        for c in range(3):  # one colour at a time keeps the memory of large pictures low
            change = after[..., c].astype(np.float32) - before[..., c]
            wide = np.asarray(Image.fromarray(change).resize(self.size, Image.Resampling.BICUBIC))
            out[..., c] = (full[..., c] + wide).round().clip(0, 255)
        return Image.fromarray(out)


class Ager:
    """Renders faces at other ages.

    The pictures it takes are aligned face crops: upright, the eyes' centres at 0.30 and 0.68 of the width and 0.30 of
    the height.

    Attributes:
        generator: (N, 3, S, S) in [-1, 1] and age vectors (N, K) -> (N, 3, S, S), in eval mode.
        code: what turns years into age vectors; its anchors are the ages trained on.
        image_size: S, the side in pixels of the generator's pictures.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,  # weights loaded, on its device
        code: AgeCode,  # how years become its age vectors
        image_size: int,  # side in pixels of its pictures
    ) -> None:
        self.generator = generator.eval().to(memory_format=torch.channels_last)
        self.code = code
        self.image_size = image_size
        self._device = next(generator.parameters()).device

    @classmethod
    def load(cls, weights: Path | None = None) -> "Ager":
        """Read weights, by default the shipped ones, to the GPU if there is one.

        Weights of a two-domain model know two ages: the middles of its groups, and blends between them.

        Raises:
            UserError: no such file, not weights of this package, or weights of another kind of model.
        """
        path = find_weights("", Path()) if weights is None else Path(weights)
        snapshot = load_snapshot(path)
        try:
            generator, code = _build(snapshot)
        except RuntimeError:
            raise UserError(f"--weights {path}: do not fit their own configuration; train or copy them again") from None
        except UserError as e:
            raise UserError(f"--weights {path}: {e}") from None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(generator=generator.to(device), code=code, image_size=snapshot.train.image_size)

    def age(self, image: Image.Image, years: float) -> Image.Image:
        """Render a face at an age.

        Args:
            image: an aligned face crop of any size and mode. It is fitted into the generator's square; of a larger
                one the detail is kept, since the generator's change is added to it.
            years: age in years; beyond the first or last anchor age it means that anchor.

        Returns:
            RGB picture of the same size.

        Raises:
            ValueError: years are not a finite number.
        """
        rgb = to_rgb(image)
        fitted = Fitted.fit(rgb, self.image_size)
        return fitted.unfit(self.age_many(fitted.square[None], [years])[0], rgb)

    def age_many(self, pictures: Picture, years: Sequence[float], batch_size: int = 16) -> Picture:
        """Render faces, each at its own age.

        Args:
            pictures: uint8 (N, S, S, 3).
            years: N ages.
            batch_size: faces per forward pass.

        Returns:
            uint8 (N, S, S, 3).

        Raises:
            ValueError: shapes or counts that do not agree, or years that are not finite.
        """
        self._check(pictures, years)
        parts = []
        with torch.inference_mode():
            for i in range(0, len(pictures), batch_size):
                part = slice(i, i + batch_size)
                out = self.generator(self._input(pictures[part]), self._vectors(years[part]))
                parts.append(to_uint8(out))
        return np.concatenate(parts) if parts else pictures.copy()

    def life(self, image: Image.Image, frames_per_decade: int = 12, layer: str = "blocks.2") -> list[Image.Image]:
        """Render one life from the first to the last anchor age; see `features.life_frames`.

        Args:
            image: as in `age`.
            frames_per_decade: pictures in ten years.
            layer: where the features of two neighbouring ages are blended.

        Returns:
            RGB pictures of the same size.
        """
        rgb = to_rgb(image)
        fitted = Fitted.fit(rgb, self.image_size)
        with torch.inference_mode():
            x = life_frames(self.generator, self._input(fitted.square[None]), self.code, frames_per_decade, layer)
        return [fitted.unfit(frame, rgb) for frame in to_uint8(x)]

    def features(self, picture: Picture, years: Sequence[float], layers: Sequence[str]) -> dict[str, Tensor]:
        """Feature maps of one face at several ages.

        Args:
            picture: uint8 (S, S, 3).
            years: N ages.
            layers: names out of `layer_names(ager.generator)`.

        Returns:
            layer -> (N, C, H, W), on the CPU.
        """
        self._check(picture[None].repeat(len(years), axis=0), years)
        maps: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        with torch.inference_mode():
            for one in years:
                with Taps(self.generator, layers) as taps:
                    self.generator(self._input(picture[None]), self._vectors([one]))
                for layer in layers:
                    maps[layer].append(taps.outputs[layer].cpu())
        return {layer: torch.cat(parts) for layer, parts in maps.items()}

    def layers(self) -> list[str]:
        """Names of the generator's layers."""
        return layer_names(self.generator)

    def _check(self, pictures: Picture, years: Sequence[float]) -> None:
        size = self.image_size
        if pictures.ndim != 4 or pictures.shape[1:] != (size, size, 3) or pictures.dtype != np.uint8:
            raise ValueError(f"pictures: {pictures.dtype} {pictures.shape}, not uint8 (N, {size}, {size}, 3)")
        if len(pictures) != len(years):
            raise ValueError(f"{len(pictures)} pictures and {len(years)} ages")
        for one in years:
            if not math.isfinite(one):
                raise ValueError(f"years: {one} is not an age")

    def _input(self, pictures: Picture) -> Tensor:
        return to_float(pictures).to(self._device).contiguous(memory_format=torch.channels_last)

    def _vectors(self, years: Sequence[float]) -> Tensor:
        return self.code.encode([float(one) for one in years]).to(self._device)


class _TwoDomains(nn.Module):
    """The two generators of a pair as one that takes an age vector (N, 2): each adds its share."""

    def __init__(self, *, to_young: nn.Module, to_old: nn.Module) -> None:
        super().__init__()
        self.to_young, self.to_old = to_young, to_old

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        share = age[:, :, None, None, None]  # (N, 2, 1, 1, 1)
        out: Tensor = share[:, 0] * self.to_young(x) + share[:, 1] * self.to_old(x)
        return out


def _build(snapshot: Snapshot) -> tuple[nn.Module, AgeCode]:
    """The generator of a snapshot and the ages it takes."""
    train, net = snapshot.train, snapshot.net
    if isinstance(net, CycleGANConfig):
        generator = cyclegan.build_generator(train, net)
        generator.load_state_dict(snapshot.network("generator"))
        return generator, AgeCode(train.ages, train.age_vector)
    if isinstance(net, CycleGANPairConfig):
        return _build_pair(snapshot, train, net)
    raise UserError(f"weights of the model {train.model}, which renders no faces; give those of a cyclegan")


def _build_pair(snapshot: Snapshot, train: TrainConfig, net: CycleGANPairConfig) -> tuple[nn.Module, AgeCode]:
    networks = []
    for name in ("generator_ba", "generator_ab"):
        generator = cyclegan_pair.build_generator(train, net)
        generator.load_state_dict(snapshot.network(name))
        networks.append(generator)
    groups = [parse_group(group) for group in (net.group_a, net.group_b)]
    a, b = ((group[0] + group[1] + 1) // 2 if group else 0 for group in groups)
    if a == b:
        raise UserError(f"two domains of one age, {net.group_a} and {net.group_b}; they cannot be chosen by age")
    to_a, to_b = networks
    if a < b:
        return _TwoDomains(to_young=to_a, to_old=to_b), AgeCode((a, b))
    return _TwoDomains(to_young=to_b, to_old=to_a), AgeCode((b, a))


def demo_portrait() -> Image.Image:
    """The built-in face, 256 x 256 px: Eileen Collins, by NASA, in the public domain; an aligned crop."""
    return Image.fromarray(astronaut()).resize((256, 256), Image.Resampling.LANCZOS, box=_PORTRAIT_BOX)
