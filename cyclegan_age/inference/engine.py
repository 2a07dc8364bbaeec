"""Encoding and batched rendering: arrays and tensors of faces, and ages -> these faces at these ages."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import OLDEST, UserError
from cyclegan_age.faces.blending import Change, Floats
from cyclegan_age.features import Taps, decode_from, life_frames
from cyclegan_age.images import Picture, to_float, to_uint8
from cyclegan_age.inference.calibration import Calibrated
from cyclegan_age.inference.crops import Letterboxed
from cyclegan_age.models.base import Encoding, Renderer
from cyclegan_age.networks.warping import WarpingGenerator, smooth_flow, warp

_MOST_ENCODINGS = 4096  # faces whose latent vectors are remembered


class Engine:
    """The networks of an `Ager`, and how they are run.

    Its methods raise a ValueError if shapes or counts do not agree or an age is invalid, and a UserError if the weights
    only generate from noise or there is no domain of that number.

    Attributes:
        network: the generator and its calibration, in eval mode.
        generator: inputs (N, ...), pictures or latent vectors, and calibrated age vectors (N, K) -> pictures
            (N, 3, S, S) in [-1, 1].
        code: converts years to age vectors.
        image_size: S, the side in pixels of the generator's pictures.
        encoder: how faces are encoded.
        domains: see `Ager`.
        device: where the networks are.
    """

    def __init__(self, renderer: Renderer, image_size: int) -> None:
        self.network = Calibrated(generator=renderer.generator, calibration=renderer.calibration)
        self.generator, self.encoder = renderer.generator, renderer.encoder
        for network in (self.network, self.encoder):
            network.eval().to(memory_format=torch.channels_last)
        self.code, self.domains, self.image_size = renderer.code, renderer.domains, image_size
        self.device = next(self.generator.parameters()).device
        self._encodings: OrderedDict[str, Encoding] = OrderedDict()

    def vectors(self, inputs: Tensor, years: Sequence[float]) -> Tensor:
        """Calibrated age vectors (N, K) of N ages, for N inputs of the generator."""
        return self._calibrated(inputs, self.code.encode([float(one) for one in years]))

    def _calibrated(self, inputs: Tensor, vectors: Tensor) -> Tensor:
        return self.network.vectors(inputs, vectors.to(self.device))

    def encode(
        self, pictures: Picture, attributes: Sequence[FaceAttributes] | None = None, batch_size: int = 16
    ) -> Encoding:
        """The generator's inputs for faces, for `render`, and the measures of the encoder.

        Latent vectors are cached, since finding them may take long.

        Args:
            pictures: uint8 (N, S, S, 3).
            attributes: their own ages and sexes.
            batch_size: faces per forward pass.
        """
        self._check(pictures, attributes)
        attributes = attributes or [FaceAttributes()] * len(pictures)
        if not self.encoder.latent_size:
            return self._encoded(pictures, attributes)
        names = [
            hashlib.sha256(p.tobytes() + repr(k).encode()).hexdigest()
            for p, k in zip(pictures, attributes, strict=True)
        ]
        found = {name: self._encodings[name] for name in names if name in self._encodings}
        new = list({name: i for i, name in enumerate(names) if name not in found}.items())
        for j in range(0, len(new), batch_size):
            part = new[j : j + batch_size]
            encoding = self._encoded(pictures[[i for _, i in part]], [attributes[i] for _, i in part])
            for n, (name, _) in enumerate(part):
                measures = {k: v[n : n + 1] for k, v in encoding.measures.items()}
                found[name] = Encoding(encoding.latent[n : n + 1], measures)
        for name in names:
            self._encodings[name] = found[name]
            self._encodings.move_to_end(name)
        while len(self._encodings) > _MOST_ENCODINGS:
            self._encodings.popitem(last=False)
        all_of_them = [found[name] for name in names]
        return Encoding(
            torch.cat([r.latent for r in all_of_them]),
            {k: torch.cat([r.measures[k] for r in all_of_them]) for k in all_of_them[0].measures},
        )

    def _encoded(self, pictures: Picture, attributes: Sequence[FaceAttributes]) -> Encoding:
        x = to_float(pictures).to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return self.encoder.encode(x, attributes)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """See `Ager.sample`."""
        random = torch.Generator().manual_seed(seed)
        return torch.cat([self.encoder.sample(1, random) for _ in range(count)]).to(self.device)

    def render(self, inputs: Tensor, years: Sequence[float], batch_size: int = 16) -> Picture:
        """Inputs (N, ...) of `encode` or `sample`, each at its own age -> uint8 (N, S, S, 3)."""
        self.check_years(years, len(inputs))
        return self.render_vectors(inputs, self.code.encode([float(one) for one in years]), batch_size)

    def render_vectors(self, inputs: Tensor, vectors: Tensor, batch_size: int = 16) -> Picture:
        """As `render`, for age vectors (N, K), also blended ones."""
        parts = []
        with torch.inference_mode():
            for i in range(0, len(inputs), batch_size):
                part = slice(i, i + batch_size)
                parts.append(to_uint8(self.network(inputs[part], vectors[part].to(self.device))))
        return np.concatenate(parts)

    def render_blends(self, inputs: Tensor, vectors: Tensor, weights: Tensor, layer: str) -> Picture:
        """Blends of two faces: K pictures uint8 (K, S, S, 3), decoded from blends of the features of `layer`.

        At weights 0 and 1 they are the generator's plain outputs. If the layer does
        not run for both faces, since one skips its sub-network, only pictures and age vectors are blended.

        Args:
            inputs: (2, 3, S, S), the two pictures.
            vectors: (K, ...), the age vectors of the blends, those of the two faces first and last.
            weights: (K,), of the second face.
            layer: name of a layer.
        """
        frames, generator = [], self.generator
        with torch.inference_mode():
            ends = []
            for k, vector in ((0, vectors[0]), (1, vectors[-1])):
                age_vector = self._calibrated(inputs[k][None], vector[None])
                with Taps(generator, [layer]) as taps:
                    generator(inputs[k][None], age_vector)
                ends += [taps.outputs[layer]] if layer in taps.outputs else []
            for vector, weight in zip(vectors, weights, strict=True):
                x = torch.lerp(inputs[:1], inputs[1:], float(weight))
                age_vector = self._calibrated(x, vector[None])
                if len(ends) == 2:
                    features = torch.lerp(ends[0], ends[1], float(weight))
                    frames.append(to_uint8(decode_from(generator, layer, features, x, age_vector)))
                else:
                    frames.append(to_uint8(generator(x, age_vector)))
        return np.concatenate(frames)

    def age_many(
        self,
        pictures: Picture,
        years: Sequence[float],
        batch_size: int = 16,
        attributes: Sequence[FaceAttributes] | None = None,
    ) -> Picture:
        """Faces, each at its own age; see `Ager.age_many`."""
        self._check(pictures, attributes)
        self.check_years(years, len(pictures))
        if not len(pictures):
            return pictures.copy()
        if self.encoder.latent_size:  # all at once: latent vectors are small, and the faces may be few
            return self.render(self.encode(pictures, attributes, batch_size).latent, years, batch_size)
        parts = []
        for i in range(0, len(pictures), batch_size):
            part = slice(i, i + batch_size)
            inputs = self.encode(pictures[part], attributes[part] if attributes else None).latent
            parts.append(self.render(inputs, years[part], batch_size))
        return np.concatenate(parts)

    def age_letterboxed(
        self,
        faces: Sequence[Letterboxed],
        years: Sequence[float],
        batch_size: int = 16,
        attributes: Sequence[FaceAttributes] | None = None,
    ) -> list[Picture | Change]:
        """As `age_many`, for faces of `Ager.letterbox`; the results are for their `restore`.

        If the generator warps, pictures larger than the square get a `Change`, so that the flow warps them at full
        size; an enlarged residual would double the edges.
        """
        squares = np.stack([face.square for face in faces])
        warps = isinstance(self.generator, WarpingGenerator) and self.generator.deform > 0
        large = [i for i, face in enumerate(faces) if warps and face.enlarges]
        small = [i for i in range(len(faces)) if i not in large]

        def of(indices: list[int]) -> tuple[Picture, list[float], int, list[FaceAttributes] | None]:
            own = [attributes[i] for i in indices] if attributes else None
            return squares[indices], [years[i] for i in indices], batch_size, own

        aged: list[Picture | Change] = list(squares)
        for i, change in zip(large, self.changes(*of(large)), strict=True):
            aged[i] = change
        for i, square in zip(small, self.age_many(*of(small)), strict=True):
            aged[i] = square
        return aged

    def changes(
        self,
        pictures: Picture,
        years: Sequence[float],
        batch_size: int = 16,
        attributes: Sequence[FaceAttributes] | None = None,
    ) -> list[Change]:
        """The changes of faces: the residual and, if the generator warps them, the flow.

        For a model with latent vectors they are the new faces instead. A change enlarged with the face keeps the
        picture's own detail. Arguments are those of `age_many`.
        """
        self._check(pictures, attributes)
        self.check_years(years, len(pictures))
        found: list[Change] = []
        for i in range(0, len(pictures), batch_size):
            part = slice(i, i + batch_size)
            inputs = self.encode(pictures[part], attributes[part] if attributes else None, batch_size).latent
            base = to_float(pictures[part]).to(self.device)
            with torch.inference_mode():
                vectors = self.vectors(inputs, years[part])
                if isinstance(self.generator, WarpingGenerator):
                    out, flow = self.generator.with_flow(inputs, vectors)
                else:
                    out, flow = self.generator(inputs, vectors), None
                shifts: list[Floats | None] = [None] * len(out)
                if flow is not None:
                    base = warp(base, flow)
                    shifts = list(smooth_flow(flow).permute(0, 2, 3, 1).contiguous().cpu().numpy())
                replaces = bool(self.encoder.latent_size)
                both = out.float() + 1 if replaces else out.float() - base, base + 1
                levels = [(x * 127.5).permute(0, 2, 3, 1).contiguous().cpu().numpy() for x in both]
            each = zip(*levels, shifts, strict=True)
            found += [Change(colour, shift, replaces=replaces, before=before) for colour, before, shift in each]
        return found

    def life(
        self, picture: Picture, frames_per_decade: int, layer: str, attributes: FaceAttributes | None = None
    ) -> Picture:
        """One face uint8 (S, S, 3) from the first to the last anchor age, uint8 (F, S, S, 3); see `life_frames`."""
        inputs = self.encode(picture[None], [attributes] if attributes else None).latent
        with torch.inference_mode():
            x = life_frames(self.generator, inputs, self.code, frames_per_decade, layer, self._calibrated)
        return to_uint8(x)

    def features(
        self, picture: Picture, years: Sequence[float], layers: Sequence[str], attributes: FaceAttributes | None = None
    ) -> dict[str, Tensor]:
        """Feature maps of one face at several ages; see `Ager.features`."""
        self.check_years(years, len(years))
        inputs = self.encode(picture[None], [attributes] if attributes else None).latent
        maps: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        with torch.inference_mode():
            for one in years:
                with Taps(self.generator, layers) as taps:
                    self.generator(inputs, self.vectors(inputs, [one]))
                for layer in layers:
                    maps[layer].append(taps.outputs[layer][:1].cpu())  # a mirror image may follow
        return {layer: torch.cat(parts) for layer, parts in maps.items()}

    def _check(self, pictures: Picture, attributes: Sequence[FaceAttributes] | None) -> None:
        size = self.image_size
        if pictures.ndim != 4 or pictures.shape[1:] != (size, size, 3) or pictures.dtype != np.uint8:
            raise ValueError(f"pictures: {pictures.dtype} {pictures.shape}, not uint8 (N, {size}, {size}, 3)")
        if attributes is not None and len(pictures) != len(attributes):
            raise ValueError(f"{len(pictures)} pictures and {len(attributes)} attributes")

    def check_years(self, years: Sequence[float], count: int) -> None:
        """Check the ages, or the numbers of domains, of `count` pictures."""
        if count != len(years):
            raise ValueError(f"{count} pictures and {len(years)} ages")
        for one in years:
            given: object = one
            if not isinstance(given, Real):
                raise ValueError(f"years {one!r}: must be a number from 0 to {OLDEST}")
            if self.domains and one not in range(len(self.domains)):
                numbers = ", ".join(f"{k} for {name}" for k, name in enumerate(self.domains))
                raise UserError(f"years: {one:g}, must be the number of a domain: {numbers}")
            if not 0 <= one <= OLDEST:  # NaN is not, either
                raise ValueError(f"years {one:g}: must be from 0 to {OLDEST}")

    def check_ages(self, what: str) -> None:
        """Check that the weights know ages, which `what` needs.

        Raises:
            UserError: they translate whole pictures instead.
        """
        if self.domains:
            raise UserError(f"{what}: needs weights with ages; use Ager.age with these")
