"""Tracking: the faces of each frame of a video -> tracks with smoothed landmarks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.detection import Face, NoFace
from cyclegan_age.faces.frames import FRAMES, Frame, Points

_NEAR = FRAMES["utkface"]  # its square is the unit of size and distance, independent of the weights' frame
_SMOOTH_S = 0.08  # standard deviation in seconds of the Gaussian that smooths landmarks
_GAP_S = 0.4  # longest gap in a track in seconds
_LEAST_S = 0.2  # minimum length of a track in seconds
_FADE_S = 0.15  # fade in seconds where a face appears or disappears within a scene


@dataclass(eq=False)
class Track:
    """One face over successive frames."""

    first: int  # index of its first frame
    landmarks: NDArray[np.float64]  # (T, 5, 2), smoothed
    strength: NDArray[np.float64]  # (T,), 0 to 1: opacity of the change

    def place(self, number: int, frame: Frame) -> Place | None:
        """Position of an aligned crop of this frame in a picture of the video; None without the face."""
        i = number - self.first
        return Place.fit(self.landmarks[i], frame) if 0 <= i < len(self.landmarks) else None


@dataclass
class _Open:
    """A track in progress."""

    frames: list[int] = field(default_factory=list)
    seen: list[Points] = field(default_factory=list)

    def distance(self, landmarks: Points) -> float:
        """Distance of landmarks from the last ones, in sides of the square; infinite if the size does not match."""
        last, new = Place.fit(self.seen[-1], _NEAR), Place.fit(landmarks, _NEAR)
        if not 0.6 < new.side / last.side < 1.6:
            return float("inf")
        return float(np.linalg.norm(landmarks.mean(axis=0) - self.seen[-1].mean(axis=0))) / last.side


def follow(found: Sequence[Sequence[Face]], cuts: Collection[int], fps: float) -> list[Track]:
    """Track the faces of a clip.

    Args:
        found: the faces of each frame.
        cuts: indices of the frames that begin a new scene; no track continues across them.
        fps: frames per second.

    Returns:
        Tracks by their first frame and, within it, from left to right.
    """
    gap, least = max(1, round(_GAP_S * fps)), max(1, round(_LEAST_S * fps))
    open_: list[_Open] = []
    done: list[_Open] = []
    for t, faces in enumerate(found):
        if t in cuts:
            done, open_ = done + open_, []
        done += [track for track in open_ if t - track.frames[-1] > gap]
        open_ = [track for track in open_ if t - track.frames[-1] <= gap]
        pairs = sorted(
            (track.distance(face.landmarks), i, j) for i, track in enumerate(open_) for j, face in enumerate(faces)
        )
        tracks_left, faces_left = set(range(len(open_))), set(range(len(faces)))
        for distance, i, j in pairs:
            if distance < 0.5 and i in tracks_left and j in faces_left:
                tracks_left.remove(i)
                faces_left.remove(j)
                open_[i].frames.append(t)
                open_[i].seen.append(faces[j].landmarks)
        open_ += [_Open([t], [faces[j].landmarks]) for j in sorted(faces_left)]
    least = min(least, len(found))
    scenes = {0, len(found), *cuts}
    closed = [_close(track, scenes, fps) for track in done + open_ if len(track.frames) >= least]
    return sorted(closed, key=lambda track: (track.first, float(track.landmarks[0, :, 0].mean())))


def chosen_tracks(tracks: Sequence[Track], which: str) -> list[Track]:
    """Like `detection.chosen`, for the faces of a clip; the largest has the largest total area over all frames.

    Raises:
        NoFace: no face, or no face of that number.
    """
    if not tracks:
        raise NoFace("no face found in it")
    if which == "all":
        return list(tracks)
    if which == "largest":
        return [max(tracks, key=lambda t: sum(Place.fit(points, _NEAR).side ** 2 for points in t.landmarks))]
    if int(which) > len(tracks):
        raise NoFace(f"no face {which}; {len(tracks)} found, counted by first appearance and from left to right")
    return [tracks[int(which) - 1]]


def smoothed(times: NDArray[np.float64], values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (N, K) at some times -> (T, K) at others, by local linear regression with Gaussian weights.

    It has no bias for steady motion or at the ends. Times are in standard deviations of the Gaussian.
    """
    out = np.empty((len(at), values.shape[1]))
    for i, t in enumerate(at):
        d = times - t
        reach = max(4.0, float(np.sort(abs(d))[: min(3, len(d))].max()) + 1)
        near = abs(d) <= reach
        d, v = d[near], values[near]
        w = np.exp(-0.5 * d * d)
        w /= max(w.sum(), 1e-300)
        middle = w @ d
        spread = w @ (d - middle) ** 2
        slope = (w * (d - middle)) @ v / spread if spread > 1e-9 else np.zeros(values.shape[1])
        out[i] = w @ v - slope * middle
    return out


def _close(track: _Open, scenes: set[int], fps: float) -> Track:
    first, last = track.frames[0], track.frames[-1]
    at = np.arange(first, last + 1, dtype=np.float64)
    times = np.array(track.frames, dtype=np.float64)
    raw = np.stack(track.seen).reshape(len(times), 10)
    filled = np.stack([np.interp(at, times, column) for column in raw.T], axis=1)
    unit = _SMOOTH_S * fps
    landmarks = smoothed(at / unit, filled, at / unit).reshape(-1, 5, 2)
    strength = np.ones(len(at))
    ramp = (np.arange(len(at)) + 1) / max(1.0, _FADE_S * fps)
    if first not in scenes:
        strength = np.minimum(strength, ramp)
    if last + 1 not in scenes:
        strength = np.minimum(strength, ramp[::-1])
    return Track(first, landmarks, strength)
