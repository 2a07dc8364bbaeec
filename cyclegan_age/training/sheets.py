"""Columns of a training's sample sheets, its feature maps and a life, by the renderers that inference has, too."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from cyclegan_age.features import Taps, life_frames, middle_layer
from cyclegan_age.models.base import Column, FaceAttributes, Model, Renderer

_FRAMES_PER_DECADE = 3  # of a life


def sample_columns(model: Model, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, Tensor]:
    """Columns of a sample sheet.

    Args:
        model: says which ones.
        networks: its shipped networks, averaged and in eval mode.
        x: pictures (N, 3, H, W) in [-1, 1].
        age_years: (N,), their ages.

    Returns:
        name -> (N, 3, H, W), the pictures themselves first.
    """
    sheet = _Sheet(model.renderers(networks), x, age_years)
    columns = {"source": x}
    for name in model.columns:
        columns |= COLUMNS[name](sheet)
    return columns | model.views(networks, x)


def feature_maps(
    model: Model, networks: Mapping[str, nn.Module], x: Tensor, layers: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """Feature maps of one picture x (1, 3, H, W), or of one from noise: layer -> column -> (C, h, w).

    Raises:
        UserError: a generator has no layer of that name.
    """
    maps: dict[str, dict[str, Tensor]] = {layer: {} for layer in layers}
    renderers = model.renderers(networks)
    for renderer in renderers:
        latent = _encoded(renderer, x) if renderer.encoder.encodes else _sampled(renderer, x)
        for column, vector in _targets(renderer, x.device).items():
            with Taps(renderer.generator, layers) as taps:
                renderer.generator(latent, vector[None])
            for layer in layers:
                maps[layer][column] = taps.outputs[layer][0]
    return maps if renderers else {}


def life(model: Model, networks: Mapping[str, nn.Module], x: Tensor) -> Tensor | None:
    """Frames (F, 3, H, W) of the life of one picture x (1, 3, H, W), where the model has it shown."""
    if not model.shows_life:
        return None
    (renderer,) = model.renderers(networks)
    generator = renderer.generator
    return life_frames(generator, _encoded(renderer, x), renderer.code, _FRAMES_PER_DECADE, middle_layer(generator))


class _Sheet:
    """Renders the columns of a sheet; what several of them share is computed once."""

    def __init__(self, renderers: Sequence[Renderer], x: Tensor, age_years: Tensor) -> None:
        self.renderers, self.x, self.age_years = renderers, x, age_years

    def rebuilt(self) -> dict[str, Tensor]:
        (renderer,) = self.renderers
        return {"rebuilt": renderer.generator(self._latent, renderer.code.encode(self.age_years))}

    def ages(self) -> dict[str, Tensor]:
        return self._ages

    def cycle(self) -> dict[str, Tensor]:
        (renderer,) = self.renderers
        *_, last = self._ages.values()
        back = _encoded(renderer, last, renderer.code.nominal_years[-1])
        return {"cycle": renderer.generator(back, renderer.code.encode(self.age_years))}

    def translations(self) -> dict[str, Tensor]:
        there, back = self.renderers
        first = _at_targets(there, self.x)
        (translated,) = first.values()
        (again,) = _at_targets(back, translated).values()
        return first | {"cycle": again} | _at_targets(back, self.x)

    def generated(self) -> dict[str, Tensor]:
        (renderer,) = self.renderers
        (made,) = _at_targets(renderer, _sampled(renderer, self.x.repeat(2, 1, 1, 1))).values()
        first, second = made.chunk(2)
        return {"made": first, "made too": second}

    def generated_ages(self) -> dict[str, Tensor]:
        (renderer,) = self.renderers
        return _at_targets(renderer, _sampled(renderer, self.x))

    @cached_property
    def _latent(self) -> Tensor:
        (renderer,) = self.renderers
        return _encoded(renderer, self.x, self.age_years)

    @cached_property
    def _ages(self) -> dict[str, Tensor]:
        (renderer,) = self.renderers
        return _at_targets(renderer, self._latent)


COLUMNS: dict[Column, Callable[[_Sheet], dict[str, Tensor]]] = {
    "rebuilt": _Sheet.rebuilt,
    "ages": _Sheet.ages,
    "cycle": _Sheet.cycle,
    "translations": _Sheet.translations,
    "generated": _Sheet.generated,
    "generated ages": _Sheet.generated_ages,
}


def _encoded(renderer: Renderer, x: Tensor, age_years: Tensor | float = torch.nan) -> Tensor:
    """Generator inputs (N, ...) of pictures (N, 3, H, W) of ages in years, NaN where unknown."""
    unknown = torch.full((len(x),), torch.nan, device=x.device)
    known = torch.as_tensor(age_years, dtype=torch.float32, device=x.device).expand(len(x))
    return renderer.encoder.encode(x, FaceAttributes(known, unknown)).latent


def _sampled(renderer: Renderer, like: Tensor) -> Tensor:
    """Generator inputs from noise, as many as a tensor has rows, the same in every call."""
    return renderer.encoder.sample(len(like), torch.Generator().manual_seed(0)).to(like.device)


def _targets(renderer: Renderer, device: torch.device) -> dict[str, Tensor]:
    """Column name -> age vector (K,), for all targets of a renderer."""
    code = renderer.code
    vectors = code.encode(code.nominal_years).to(device)
    if not renderer.conditional:
        return {f"to {renderer.domains[0]}" if renderer.domains else "made": vectors[0]}
    return {f"{years:g}": vector for years, vector in zip(code.nominal_years, vectors, strict=True)}


def _at_targets(renderer: Renderer, latent: Tensor) -> dict[str, Tensor]:
    """Generator inputs (N, ...) rendered at all targets: column name -> (N, 3, H, W)."""
    targets = _targets(renderer, latent.device).items()
    return {name: renderer.generator(latent, vector.expand(len(latent), -1)) for name, vector in targets}
