"""Photographs: faces found, seams, changes elsewhere, speed, memory: `python -m benchmarks.photos`.

The photographs are made of `skimage.data.astronaut()`, which is in the public domain, and of other pictures of that
package. `--faces` also pastes the aligned crops of a folder into these. `--turned` measures only rotated faces.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from benchmarks.plan import Row, table
from benchmarks.processes import run_child
from cyclegan_age.config import UserError
from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.blending import CENTRE, SEMI_AXES, distance
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.images import Picture, list_images, open_image
from options.bench import PhotoBenchConfig, parse_photo_bench
from options.command import command

FACELESS = (
    *("brick", "chelsea", "clock", "coffee", "coins", "grass", "gravel"),
    *("horse", "hubble_deep_field", "moon", "page", "rocket", "text"),
)
NEAR = FRAMES["utkface"]  # its ellipse is measured
CORNERS = np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])


@dataclass(frozen=True)
class Plan:
    """Sizes of the measurements; the defaults give valid numbers."""

    width: int = 4000  # of the photograph
    height: int = 3000
    sides: tuple[int, ...] = (32, 48, 64, 128, 256, 512, 1024)  # pixels along the square of a face to be found
    crops: int = 300  # of --faces
    turned: int = 66  # of --turned
    repetitions: int = 5


QUICK = Plan(400, 300, (64, 128), 6, 2, 1)


def portrait(width: int, height: int) -> Image.Image:
    """The astronaut, cropped to a photograph's aspect ratio and enlarged."""
    box = (0, 0, 512, 512 * height / width)
    return Image.fromarray(data.astronaut()).resize((width, height), Image.Resampling.BICUBIC, box=box)


def faceless(name: str) -> Picture:
    """A picture of scikit-image without a face, uint8 (H, W, 3)."""
    image = np.asarray(getattr(data, name)())
    image = image.astype(np.uint8) * 255 if image.dtype == bool else image
    return np.asarray(Image.fromarray(image).convert("RGB"))


def found_at(photo: Picture, corners: np.ndarray) -> tuple[bool, float]:
    """Whether a face is found near these corners (4, 2) of a square, and their mean error as a share of the side."""
    side = float(np.linalg.norm(corners[1] - corners[0]))
    errors = [abs(face.place(NEAR).to_photo(CORNERS) - corners).mean() / side for face in detector().find(photo)]
    best = min(errors, default=1.0)
    return best < 0.25, best


def portraits_found(plan: Plan) -> list[Row]:
    """The portrait, pasted into other pictures at many sizes, rotated and mirrored."""
    astronaut = Image.fromarray(data.astronaut()).crop((130, 10, 330, 210))  # the head with some surroundings
    (whole,) = detector().find(data.astronaut())
    hits, errors = [], []
    for side in plan.sides:
        scale = side / whole.place(NEAR).side
        size = round(200 * scale)
        for name, degrees, mirrored in ((n, d, m) for n in ("coffee", "rocket") for d in (-25, 0, 25) for m in (0, 1)):
            ground = Image.fromarray(faceless(name)).resize((2 * size, 2 * size))
            corners = (whole.place(NEAR).to_photo(CORNERS) - (130, 10)) * scale
            head = astronaut.resize((size, size), Image.Resampling.LANCZOS)
            if mirrored:
                head = head.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                corners[:, 0] = size - corners[:, 0]
                corners = corners[[1, 0, 3, 2]]
            ground.paste(head, (size // 2, size // 2))
            turned = ground.rotate(degrees, Image.Resampling.BICUBIC)
            z = (corners + size // 2) @ (1, 1j) - size * (1 + 1j)
            z = z * np.exp(-1j * np.radians(degrees)) + size * (1 + 1j)
            hit, error = found_at(np.asarray(turned), np.stack([z.real, z.imag], axis=1))
            hits.append((side, hit))
            errors += [error] if hit else []
    rows = [
        Row(
            measure=f"portraits found, {side} px",
            value=100 * float(np.mean([h for s, h in hits if s == side])),
            unit="%",
        )
        for side in plan.sides
    ]
    return [*rows, Row(measure="- error of their squares", value=100 * float(np.mean(errors)), unit="% of the side")]


def crops_found(folder: Path, plan: Plan) -> list[Row]:
    """Aligned crops, each pasted once at a random size."""
    files = list_images(folder)
    if not files:
        raise UserError(f"--faces {folder}: no pictures in it; expected a folder of aligned crops")
    random = np.random.default_rng(0)
    grounds = [Image.fromarray(faceless(name)).resize((1600, 1200)) for name in ("coffee", "rocket", "chelsea")]
    hits, errors = [], []
    for i in random.permutation(len(files))[: plan.crops]:
        side = int(np.exp(random.uniform(np.log(48), np.log(800))))
        left, top = int(random.integers(0, 1600 - side)), int(random.integers(0, 1200 - side))
        photo = grounds[i % len(grounds)].copy()
        photo.paste(open_image(files[i]).resize((side, side), Image.Resampling.LANCZOS), (left, top))
        hit, error = found_at(np.asarray(photo), CORNERS * side + (left, top))
        hits.append(hit)
        errors += [error] if hit else []
    return [
        Row(measure=f"{len(hits)} crops of 48 to 800 px, found", value=100 * float(np.mean(hits)), unit="%"),
        Row(measure="- error of their squares", value=100 * float(np.mean(errors)), unit="% of the side"),
    ]


def turned_found(folders: Sequence[Path], plan: Plan) -> list[Row]:
    """Upright pictures as they are, and some of them rotated by 90, 180 and 270 degrees."""
    files = [file for folder in folders for file in list_images(folder)]
    if not files:
        raise UserError(f"--turned {' '.join(map(str, folders))}: no pictures in it; expected folders of upright faces")
    chosen = {files[i] for i in np.linspace(0, len(files) - 1, min(plan.turned, len(files))).astype(int)}
    upright = wrong = tried = 0
    hits: dict[int, list[bool]] = {90: [], 180: [], 270: []}
    close: dict[int, list[bool]] = {90: [], 180: [], 270: []}
    for file in files:
        picture = as_rgb(Photo.read(file).upright)
        faces = detector().find(picture)
        upright += len(faces)
        wrong += sum(face.turn != 0 for face in faces)
        if file not in chosen or not faces:
            continue
        tried += 1
        largest = max(faces, key=lambda face: face.size)
        size = np.array([picture.shape[1], picture.shape[0]])
        for turn in hits:
            points = largest.landmarks
            for _ in range(turn // 90):  # a clockwise quarter turn takes (x, y) to (height - y, x)
                height = size[1]
                points, size = np.stack([height - points[:, 1], points[:, 0]], axis=1), size[::-1]
            found = detector().find(np.ascontiguousarray(np.rot90(picture, -turn // 90)))
            errors = [abs(face.landmarks - points).max() / largest.size for face in found if face.turn == turn]
            hits[turn].append(min(errors, default=1.0) < 0.25)
            close[turn].append(min(errors, default=1.0) < 0.05)
            size = np.array([picture.shape[1], picture.shape[0]])
    rows = [Row(measure=f"pictures as they are, {len(files)}: faces found", value=upright, unit="faces")]
    rows.append(Row(measure="- found turned", value=wrong, unit="faces", at_most=0))
    for turn in hits:
        rows.append(Row(measure=f"turned by {turn}, {tried} pictures: found", value=sum(hits[turn]), unit="faces"))
        rows.append(Row(measure="- landmarks within 5% of the side", value=sum(close[turn]), unit="faces"))
    return rows + turned_seconds(plan)


def turned_seconds(plan: Plan) -> list[Row]:
    """Relative search time of a large picture without a face, and of a rotated one."""

    def seconds(picture: Picture, **how: tuple[int, ...]) -> float:
        times = []
        for _ in range(plan.repetitions):
            begin = time.process_time()
            detector().find(picture, **how)
            times.append(time.process_time() - begin)
        return min(times)

    face = np.asarray(portrait(plan.width, plan.height))
    empty = np.asarray(Image.fromarray(faceless("coffee")).resize((plan.width, plan.height)))
    return [
        Row(
            measure="search without a face, over one at no turn",
            value=seconds(empty) / seconds(empty, turned_sides=()),
            unit="x",
        ),
        Row(
            measure="search of a turned face, over the upright one",
            value=seconds(np.ascontiguousarray(face[::-1, ::-1])) / seconds(face),
            unit="x",
        ),
    ]


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
