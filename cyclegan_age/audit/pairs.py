"""Which pictures show the same face: by their embeddings, and by how alike the aligned faces are."""

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.faces.alignment import opencv

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
    """Correlation of the middle of an aligned face (S, S) with another one, or its mirror image, where it fits best.

    The places tried are up to an eighth of the side away, as no detector puts the landmarks of copies in one place.
    """
    cv2 = opencv()
    edge = len(first) // 8
    middle = np.ascontiguousarray(first[edge:-edge, edge:-edge])
    ways = (second, second[:, ::-1])
    return max(float(cv2.matchTemplate(np.ascontiguousarray(way), middle, cv2.TM_CCOEFF_NORMED).max()) for way in ways)
