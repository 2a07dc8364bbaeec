"""Photographs: faces found, seams, changes elsewhere, speed, memory: `python -m benchmarks.photos`.

The photographs are made of `skimage.data.astronaut()`, which is in the public domain, and of other pictures of that
package. `--faces` also pastes the aligned crops of a folder into these. `--turned` measures only rotated faces.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photos_detection import (
    FACELESS,
    NEAR,
    QUICK,
    Plan,
    crops_found,
    faceless,
    portrait,
    portraits_found,
    turned_found,
)
from benchmarks.plan import Row, table
from benchmarks.processes import run_child
from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.blending import CENTRE, SEMI_AXES, distance
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.images import Picture
from options.bench import PhotoBenchConfig, parse_photo_bench
from options.command import command


def across(picture: Picture, place: Place, r: float, step: float) -> float:
    """Mean change of colour over one pixel outward, along the ellipse of size r around a face."""
    turn = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    outward = np.cos(turn) * SEMI_AXES[0] + 1j * np.sin(turn) * SEMI_AXES[1]
    values = []
    for radius in (r - step / 2, r + step / 2):
        z = place.corner + place.edge * (complex(*CENTRE) + radius * outward)
        x, y = (np.floor(part).astype(int) for part in (z.real, z.imag))
        inside = (x >= 0) & (y >= 0) & (x < picture.shape[1]) & (y < picture.shape[0])
        values.append(
            np.where(inside[:, None], picture[y.clip(0, len(picture) - 1), x.clip(0, picture.shape[1] - 1)], 0)
        )
    return float(abs(values[1].astype(float) - values[0]).mean())


def outside_square(photo: Picture, aged: Sequence[Picture], place: Place) -> list[Row]:
    """Largest change outside the square that masks reach to, by weights for whole heads."""
    from cyclegan_age.faces.heads import MARGIN  # with torch: see `measure`

    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]].astype(np.float32) + 0.5
    z = (x + 1j * y - place.corner) / place.edge
    outside = (np.minimum(z.real, z.imag) < -MARGIN) | (np.maximum(z.real, z.imag) > 1 + MARGIN)
    changed = max(int(abs(one.astype(np.int16) - photo)[outside].max()) for one in aged)
    return [Row(measure="greatest change outside the head's square", value=changed, unit="levels", at_most=0)]


def seams(photo: Picture, aged: Sequence[Picture], place: Place) -> list[Row]:
    """Gradient across the ellipse and across the rings in which a change fades, relative to the input's."""
    step = 2 / place.side * 1.02  # one pixel, as a share of the ellipse
    rings = {r: across(photo, place, r, step) for r in (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82)}
    ratios = {r: [across(one, place, r, step) / before for one in aged] for r, before in rings.items()}
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]].astype(np.float32) + 0.5
    z = (x + 1j * y - place.corner) / place.edge
    outside = distance(z.real, z.imag) >= 1 + 1e-6
    changed = max(int(abs(one.astype(np.int16) - photo)[outside].max()) for one in aged)
    return [
        Row(measure="greatest change outside the ellipse", value=changed, unit="levels", at_most=0),
        Row(measure="gradient across the ellipse, over the input's", value=float(np.mean(ratios[1.0])), unit="x"),
        Row(measure="- worst ring where it fades", value=max(float(np.mean(v)) for v in ratios.values()), unit="x"),
    ]


def sharpness(photo: Picture, aged: Picture, place: Place) -> float:
    """Fine detail (mean square of a Laplacian) inside the face, relative to the input's."""

    def detail(picture: Picture) -> float:
        grey = picture.astype(np.float32).mean(axis=2)
        fine = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
        return float((fine[inside[1:-1, 1:-1]] ** 2).mean())

    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]].astype(np.float32) + 0.5
    z = (x + 1j * y - place.corner) / place.edge
    inside = distance(z.real, z.imag) < 0.75
    return detail(aged) / detail(photo)


def measure(plan: Plan, folder: Path, weights: str, say: Callable[[str], None]) -> list[Row]:
    """Speed, memory, seams and sharpness of a photograph with one large face."""
    source = folder / "photo.jpg"
    image = portrait(plan.width, plan.height)
    image.save(source, quality=92)
    say("test.py as a whole")
    command = [sys.executable, "test.py", "--input", str(source), "--target_age", "60"]
    command += ["--results_dir", str(folder), "--name", "whole", "--weights", weights]
    child = run_child(command, folder / "whole" / "index.html", folder / "log", {})

    from cyclegan_age.inference import Ager  # torch must not be imported before: see processes.py
    from cyclegan_age.runs import find_weights

    ager = Ager.load(find_weights(weights, Path()))
    say("one photograph")
    best = {"read": np.inf, "find": np.inf, "age": np.inf, "write": np.inf, "all": np.inf, "busy": np.inf}
    for _ in range(plan.repetitions):
        begin, busy = time.perf_counter(), time.process_time()
        last = begin

        def lap(name: str) -> None:
            nonlocal last
            best[name] = min(best[name], time.perf_counter() - last)
            last = time.perf_counter()

        photo = Photo.read(source)
        lap("read")
        faces = detector().find(as_rgb(photo.upright))
        lap("find")
        pixels = ager.age_places(photo.upright, [face.place(ager.frame) for face in faces], 60)
        lap("age")
        (folder / "aged.jpg").write_bytes(photo.with_upright(pixels).encoded())
        lap("write")
        best["all"] = min(best["all"], time.perf_counter() - begin)
        best["busy"] = min(best["busy"], time.process_time() - busy)
    coded = np.asarray(Image.open(folder / "aged.jpg")).astype(np.int16)
    before = np.asarray(Image.open(source))
    (place,) = [face.place(NEAR) for face in faces]
    y, x = np.mgrid[: plan.height, : plan.width].astype(np.float32) + 0.5
    z = (x + 1j * y - place.corner) / place.edge
    outside = distance(z.real, z.imag) >= 1.05
    recoded = float(abs(coded - before)[outside].mean())

    say("seams")
    rows = [
        Row(measure="a photograph of 12 megapixels", value=best["all"], unit="s", at_most=3),
        *(
            Row(measure=f"- to {name} it", value=1000 * best[name], unit="ms")
            for name in ("read", "find", "age", "write")
        ),
        Row(measure="- processor time of all that", value=best["busy"], unit="s"),
        Row(measure="test.py as a whole, start and page included", value=child.first_seconds, unit="s"),
        Row(measure="- peak memory", value=child.peak_bytes / 2**30, unit="GiB"),
        Row(measure="its face", value=place.side, unit="px"),
        Row(
            measure="its face's fine detail, over the input's", value=sharpness(before, as_rgb(pixels), place), unit="x"
        ),
        Row(measure="JPEG: mean change outside, by coding it again", value=recoded, unit="levels"),
    ]
    shown = np.asarray(image if plan.width < 1000 else portrait(2000, 1500))
    (face,) = detector().find(shown)
    aged = [as_rgb(ager.age_places(shown, [face.place(ager.frame)], years)) for years in ager.code.anchors]
    if ager.frame != NEAR:
        return rows + outside_square(shown, aged, face.place(ager.frame))
    return rows + seams(shown, aged, face.place(NEAR))


@command(parse_photo_bench)
def main(config: PhotoBenchConfig) -> None:
    """Measure and print the table."""
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:3.0f} s] {text}", file=sys.stderr)

    plan = QUICK if config.quick else Plan()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CPU only
    if config.turned:
        print(table(turned_found(config.turned, plan)))
        return
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-bench-") as name:
        rows = measure(plan, Path(name), config.weights, say)
    say("faces found")
    rows += portraits_found(plan)
    if config.faces:
        rows += crops_found(config.faces, plan)
    others = sum(len(detector().find(faceless(name))) for name in FACELESS)
    rows.append(Row(measure=f"faces found in {len(FACELESS)} pictures without one", value=others, unit="faces"))
    from benchmarks.inside import machine

    note = "; --quick: the numbers mean nothing" if config.quick else ""
    print(f"{machine()}; {config.weights}{note}\n\n{table(rows)}")


if __name__ == "__main__":
    sys.exit(main())
