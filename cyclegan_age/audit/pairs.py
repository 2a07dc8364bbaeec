"""Which pictures show the same face: by their embeddings, and by how alike the aligned faces are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROWS = 1024  # of the matrix of all pairs that are computed at once
_MOST = 20  # pairs of each picture


def similar(embeddings: NDArray[np.float32], least: float) -> list[tuple[int, int, float]]:
    """Pairs i < j of embeddings (N, D) of length 1 whose cosine is at least so much, with it; the most similar first.

    Of each picture the 20 most similar later ones count. For 16,000 pictures of 128 numbers it is 33 GFLOP in 16 parts.
    """
    pairs = []
    for start in range(0, len(embeddings), _ROWS):
        cosines = embeddings[start : start + _ROWS] @ embeddings[start:].T
        rows, columns = np.nonzero(np.triu(cosines >= least, 1))
        values = cosines[rows, columns]
        order = np.lexsort((-values, rows))
        taken = np.zeros(len(cosines), int)
        for k in order.tolist():
            if taken[rows[k]] < _MOST:
                taken[rows[k]] += 1
                pairs.append((start + int(rows[k]), start + int(columns[k]), float(values[k])))
    return sorted(pairs, key=lambda pair: -pair[2])


def likeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Correlation of two aligned faces (S, S), or of one with the other's mirror image where that is higher."""
    a, b = (_even(face) for face in (first, second))
    return max(float((a * b).mean()), float((a * _even(second[:, ::-1])).mean()))


def _even(face: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The middle of a face with mean 0 and variance 1; what it was lit by, as a slope, is not taken out."""
    edge = len(face) // 8
    middle = face[edge:-edge, edge:-edge].astype(np.float64)
    return np.asarray((middle - middle.mean()) / max(float(middle.std()), 1e-6))


def groups(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Numbers that are bound by pairs, as groups of two or more, each and all sorted."""
    root: dict[int, int] = {}

    def top(i: int) -> int:
        while root.setdefault(i, i) != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in pairs:
        a, b = top(i), top(j)
        root[max(a, b)] = min(a, b)
    found: dict[int, list[int]] = {}
    for i in sorted(root):
        found.setdefault(top(i), []).append(i)
    return list(found.values())
