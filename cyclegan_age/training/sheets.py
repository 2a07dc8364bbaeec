"""A training's sample sheets, feature maps and life, rendered as inference does, without age calibration."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.features import Taps, life_frames, middle_layer
from cyclegan_age.models.base import Model, Renderer

_FRAMES_PER_DECADE = 3  # of a life


def sample_columns(model: Model, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, Tensor]:
    """Columns of a sample sheet.

    Args:
        model: says which ones.
        networks: its shipped networks, with EMA weights and in eval mode.
        x: pictures (N, 3, H, W) in [-1, 1].
        age_years: (N,), their ages.

    Returns:
        name -> (N, 3, H, W), the pictures themselves first.
    """
    columns = {"source": x} | model.views(networks, x)
    if not (renderers := model.renderers(networks)):
        return columns
    first, last = renderers[0], renderers[-1]
    own = first.code.encode(age_years)  # (N, K)
    latent = _encoded(first, x, age_years) if {"rebuilt", "ages"} & {*model.columns} else x
    for name in model.columns:
        if name == "rebuilt":
            columns["rebuilt"] = first.generator(latent, own)
        elif name == "ages":
            columns |= _at_targets(first, latent)
        elif name == "cycle":
            oldest = columns[f"{first.code.nominal_years[-1]:g}"]
            columns["cycle"] = first.generator(_encoded(first, oldest, first.code.nominal_years[-1]), own)
        elif name == "translations":
            (translated,) = _at_targets(first, x).items()
            (cycle,) = _at_targets(last, translated[1]).values()
            columns |= dict([translated]) | {"cycle": cycle} | _at_targets(last, x)
        elif name == "generated":
            (samples,) = _at_targets(first, _sampled(first, x.repeat(2, 1, 1, 1))).values()
            columns["sample 1"], columns["sample 2"] = samples.chunk(2)
        else:
            columns |= _at_targets(first, _sampled(first, x))
    return columns


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


def _encoded(renderer: Renderer, x: Tensor, age_years: Tensor | float = torch.nan) -> Tensor:
    """Generator inputs (N, ...) of pictures (N, 3, H, W) of ages in years, NaN where unknown."""
    years_of_each = torch.as_tensor(age_years).expand(len(x)).tolist()
    attributes = [FaceAttributes(years) for years in years_of_each]
    return renderer.encoder.encode(x, attributes).latent


def _sampled(renderer: Renderer, like: Tensor) -> Tensor:
    """Generator inputs from noise, as many as a tensor has rows, the same in every call."""
    return renderer.encoder.sample(len(like), torch.Generator().manual_seed(0)).to(like.device)


def _targets(renderer: Renderer, device: torch.device) -> dict[str, Tensor]:
    """Column name -> age vector (K,), for all targets of a renderer."""
    code = renderer.code
    vectors = code.encode(code.nominal_years).to(device)
    if not renderer.conditional:
        return {f"to {renderer.domains[0]}" if renderer.domains else "sample 1": vectors[0]}
    return {f"{years:g}": vector for years, vector in zip(code.nominal_years, vectors, strict=True)}


def _at_targets(renderer: Renderer, latent: Tensor) -> dict[str, Tensor]:
    """Generator inputs (N, ...) rendered at all targets: column name -> (N, 3, H, W)."""
    targets = _targets(renderer, latent.device).items()
    return {name: renderer.generator(latent, vector.expand(len(latent), -1)) for name, vector in targets}
