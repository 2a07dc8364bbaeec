"""Duplicate pictures, including scaled, re-encoded or grey ones: by a perceptual hash of 256 bits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.faces.alignment import opencv

_SIDE = 16  # of the grid of a hash
_BANDS = 16
# Largest Hamming distance of copies. Of 2 x 1,100,000 pairs of different aligned faces none was below 28. Of copies
# encoded as JPEG of quality 50, halved or in grey 99 % were below 12. Copies cropped or shifted by 2 % are not found.
NEAR = _BANDS - 1  # so that two near hashes are equal in one band


def perceptual_hash(grey: Any) -> str:
    """Whether each cell of a 16 x 16 grid of a grey picture uint8 (H, W) is lighter than the next: 256 bits,
    hexadecimal."""
    cv2 = opencv()
    small = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def near_copies(hashes: Sequence[str]) -> list[list[int]]:
    """Indices of the pictures that are copies of each other, in groups of two or more.

    Args:
        hashes: N, as `perceptual_hash` returns them.
    """
    if not hashes:
        return []
    rows = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1)
    bands, words = rows.view(np.uint16), rows.view(np.uint64)
    root = list(range(len(hashes)))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for band in range(_BANDS):
        for members in _same(bands[:, band]):
            for k, i in enumerate(members[:-1].tolist()):
                others = members[k + 1 :]
                apart = np.bitwise_count(words[others] ^ words[i]).sum(axis=1)
                for j in others[apart <= NEAR].tolist():
                    root[max(top(i), top(j))] = min(top(i), top(j))
    groups: dict[int, list[int]] = {}
    for i in range(len(hashes)):
        groups.setdefault(top(i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _same(values: NDArray[np.uint16]) -> list[NDArray[np.int64]]:
    """Indices (k,) of the positions with the same value, for each value that occurs at least twice."""
    order = np.argsort(values, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
    return [part for part in parts if len(part) > 1]
