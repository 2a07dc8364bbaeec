"""Videos -> the same ones with their faces at other ages, each followed through its frames."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import InferConfig
from cyclegan_age.faces import video
from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.blending import Change, Pixels, blend
from cyclegan_age.faces.detection import Face, detector, turned_text
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.faces.heads import HeadMask, Steady
from cyclegan_age.faces.tracking import Track, chosen_tracks, follow
from cyclegan_age.images import Picture
from cyclegan_age.inference import Ager
from cyclegan_age.provenance import Mark
from cyclegan_age.rendering.outputs import Output, sentence
from cyclegan_age.rendering.page import Section
from cyclegan_age.rendering.photos import NEAR, estimated_at
from cyclegan_age.rendering.reliability import age_warning
from cyclegan_age.rendering.sources import Source

_STEADY_S = 0.1  # seconds before and after a frame whose masks its own is averaged with
_AGE_AT = (0.25, 0.5, 0.75)  # shares of a track at which its age is estimated


@dataclass(frozen=True)
class _Shown:
    """A face in one frame."""

    place: Place
    opacity: float  # 0 to 1: how much of the change is done
    head: HeadMask | None
    attributes: FaceAttributes


class AgedVideo(Output):
    """A video whose faces are followed, and aged frame by frame while it is written.

    Raises:
        BadImage: it cannot be read.
        NoFace: no face is found, or not the one wanted.
    """

    def __init__(
        self,
        source: Source,
        path: Path,  # its file
        config: InferConfig,  # which faces, how strongly, and how many at once
        say: Callable[[str], None],  # takes lines for the user
    ) -> None:
        self.source, self._path, self._config = source, path, config
        if config.life or config.features:
            say(f"{source.title}: --life and --features are made of photographs only")
        self._fps, total = video.rate(path)
        found: list[list[Face]] = []
        cuts: set[int] = set()
        before: Picture | None = None
        with tqdm(total=total or None, unit="frame", desc="faces", leave=False, disable=None) as bar:
            for picture in video.frames(path):
                if before is not None and video.begins_scene(before, picture):
                    cuts.add(len(found))
                found.append(detector().find(picture, (320, 1280), (320,)))
                before = picture
                bar.update()
        everyone = follow(found, cuts, self._fps)
        self._frames, self._tracks = len(found), chosen_tracks(everyone, config.face)
        self._others = [track for track in everyone if track not in self._tracks]
        self.count = len(self._tracks)

    def write(self, folder: Path, ager: Ager, ages: Sequence[float], mark: Mark | None) -> list[Section]:
        tracks = self._tracks
        alone = len(tracks) + len(self._others) == 1
        known = self.source.attributes if alone else FaceAttributes()
        unknown = math.isnan(known.age_years)
        own_years = _own_years(self._path, tracks) if unknown else [known.age_years]
        attributes = [replace(known, age_years=years) for years in own_years]
        parsed = _heads(ager, self._path, tracks) if ager.frame != FRAMES["utkface"] else iter(())
        steady = Steady(parsed, max(1, round(_STEADY_S * self._fps)))
        ending = video.ending(self._path)
        names = [f"{self.source.stem}_age{years:g}{ending}" for years in ages]
        parts = [folder / Path(name).parent / f".{Path(name).stem}.part{ending}" for name in names]
        parts[0].parent.mkdir(parents=True, exist_ok=True)
        with tqdm(total=self._frames, unit="frame", desc="ages", leave=False, disable=None) as bar:

            def edit(number: int, picture: Picture) -> list[Pixels]:
                bar.update()
                here = _here(ager, picture, number, tracks)
                if not here:
                    return [picture] * len(ages)
                heads = steady.at(number)
                faces = [
                    _Shown(p, float(tracks[k].strength[number - tracks[k].first]), heads.get(k), attributes[k])
                    for k, p in here
                ]
                away = [place for _, place in _here(ager, picture, number, self._others)]
                return _aged_frame(ager, picture, faces, away, ages, self._config)

            try:
                video.rewrite(self._path, parts, edit, [mark.at(years) for years in ages] if mark else [])
                for part, name in zip(parts, names, strict=True):
                    part.replace(folder / name)
            finally:
                for part in parts:
                    part.unlink(missing_ok=True)
        middles = [Face(track.landmarks[len(track.landmarks) // 2], (0, 0, 0, 0), 1) for track in tracks]
        self.warnings = [line for line in (turned_text(middles), age_warning(own_years)) if line]
        sections = [
            Section(title=f"{self.source.title} at {y:g} years", mp4=n) for y, n in zip(ages, names, strict=True)
        ]
        sections[0].notes = [sentence(line) for line in self.warnings]
        return sections


def _own_years(source: Path, tracks: Sequence[Track]) -> list[float]:
    """The age of each face of a video: the mean of what is estimated in some of its frames."""
    wanted = [{t.first + int(len(t.strength) * share) for share in _AGE_AT} for t in tracks]
    last = max(map(max, wanted))
    found = [list[float]() for _ in tracks]
    frames = tqdm(video.frames(source), total=last + 1, unit="frame", desc="own ages", leave=False, disable=None)
    with frames:
        for number, picture in enumerate(frames):
            for track, numbers, years in zip(tracks, wanted, found, strict=True):
                if number in numbers and (place := track.place(number, NEAR)):
                    years.append(estimated_at(picture, place))
            if number == last:
                break
    return [float(np.mean(years)) for years in found]


def _here(ager: Ager, picture: Picture, number: int, tracks: Sequence[Track]) -> list[tuple[int, Place]]:
    """The faces that are in a frame of a video: their numbers among the tracks, and their places."""
    places = [track.place(number, ager.frame) for track in tracks]
    return [(k, place) for k, place in enumerate(places) if place is not None and place.touches(picture.shape)]


def _heads(ager: Ager, source: Path, tracks: Sequence[Track]) -> Iterator[dict[int, HeadMask]]:
    """The heads of each frame of a video, by the numbers of their tracks."""
    for number, picture in enumerate(video.frames(source)):
        here = _here(ager, picture, number, tracks)
        heads = ager.photo_faces.heads(picture, [place for _, place in here])
        yield {k: head for (k, _), head in zip(here, heads, strict=True) if head}


def _aged_frame(
    ager: Ager,
    picture: Picture,
    faces: Sequence[_Shown],
    others: Sequence[Place],
    ages: Sequence[float],
    config: InferConfig,
) -> list[Pixels]:
    """A frame of a video at each age."""
    places = [face.place for face in faces]
    done = ager.photo_faces.changes(
        ager.photo_faces.squares(picture, places),
        [face.head for face in faces],
        ages,
        attributes=[face.attributes for face in faces],
        strengths=config.strengths,
        batch_size=config.batch_size,
    )
    weaker = [[_weaker(change, face.opacity) for change, face in zip(one, faces, strict=True)] for one in done]
    return [blend(picture, list(zip(places, one, strict=True)), others=others) for one in weaker]


def _weaker(change: Change, opacity: float) -> Change:
    """A change that is faded to an opacity, 0 to 1."""
    if opacity >= 1:
        return change
    shift = None if change.shift is None else change.shift * np.float32(opacity)
    if change.replaces:
        return replace(change, opacity=opacity * change.opacity)
    return replace(change, colour=change.colour * np.float32(opacity), shift=shift)
