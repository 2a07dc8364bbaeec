"""Notes on unreliable renderings: ages that weights do not know, and faces that look too young or too old."""

from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image

from cyclegan_age.config import TrainConfig
from cyclegan_age.faces.alignment import reframed
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.images import to_float, to_rgb
from cyclegan_age.inference import Ager, Letterboxed
from cyclegan_age.models import load_estimator
from cyclegan_age.networks.estimators import AgeEstimator, expected_age
from cyclegan_age.networks.warping import both_ways

RELIABLE = (10, 70)  # estimated years of faces between which there were enough to learn from


@cache
def _estimator() -> AgeEstimator:
    return load_estimator("age_loss_a", TrainConfig()).eval()


def estimated_age(image: Image.Image, frame: Frame) -> float:
    """Years that the shipped age estimator sees on an aligned crop in a frame and on its mirror image, in the mean."""
    network = _estimator()
    image = to_rgb(image)
    if frame != FRAMES["utkface"]:
        whole = Letterboxed.of(image, max(image.size)).square
        image = Image.fromarray(reframed(whole, frame, FRAMES["utkface"]))
    square = Letterboxed.of(image, network.input_size).square
    with torch.inference_mode():
        return float(expected_age(network(both_ways(to_float(square)))).mean())


def beyond_text(ager: Ager, years: float) -> str:
    """A line where weights do not know an age to render; empty for those from the first to the last anchor."""
    first, last = ager.code.anchors[0], ager.code.anchors[-1]
    if ager.domains or first <= years <= last:
        return ""
    return f"age {years:g}: beyond the {first} to {last} of the weights, rendered as the nearest of them"


def age_warning(ages: Sequence[float]) -> str:
    """A line where a face is so young or old that renderings of it are often wrong; empty for other ages (years)."""
    beyond = sorted(age for age in ages if not RELIABLE[0] <= age <= RELIABLE[1])
    if not beyond:
        return ""
    years = " and ".join(dict.fromkeys(f"{age:.0f}" for age in beyond))
    low, high = RELIABLE
    return f"a face of about {years} years; under {low} and over {high} renderings often have cracks and smears"
