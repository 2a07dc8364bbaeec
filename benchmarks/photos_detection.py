"""Detection of faces in photographs, upright and rotated, for benchmarks.photos."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from benchmarks.plan import Row
from cyclegan_age.config import UserError
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.images import Picture, list_images, open_image

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
