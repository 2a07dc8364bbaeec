"""Warnings of a failing training: copying, mode collapse, vanished losses, and trends of its curves."""

from collections.abc import Mapping
from statistics import fmean, stdev

from torch import Tensor

from cyclegan_age.curves import HELD_OUT, Curve, Curves

_FEWEST = 12  # minimum number of points of a curve to check


class Watchdog:
    """Checks sample sheets and logged losses; reports each problem once until it is over.

    Args:
        patience: consecutive checks that must find a problem before it is reported.
    """

    def __init__(self, *, patience: int = 3) -> None:
        self.patience = patience
        self.seen: dict[str, int] = {}

    def samples(self, columns: Mapping[str, Tensor]) -> list[str]:
        """Check a sheet: `source` and rendered columns, (N, 3, H, W) in [-1, 1] each; returns new warnings."""
        source = columns["source"].float()
        rendered = {k: v.float() for k, v in columns.items() if k not in ("source", "cycle")}
        if not rendered or len(source) < 2:
            return []
        change = max(float((v - source).abs().mean()) for v in rendered.values())
        spread = float(source.std(dim=0).mean())
        narrow = [k for k, v in rendered.items() if float(v.std(dim=0).mean()) < 0.2 * spread]
        return [
            *self._note(
                "copy",
                change < 0.02,
                f"output equals input (largest mean change {change:.3f} of a range of 2); normal at the start, later "
                "use a lower --lambda_identity and --lambda_cycle, or a higher --lambda_age, where the model has them",
            ),
            *self._note(
                "collapse",
                bool(narrow),
                f"samples collapse: different faces have similar outputs at {', '.join(narrow)}; use an earlier "
                "snapshot, a lower --lr, a higher --lambda_cycle or more faces of these ages",
            ),
        ]

    def losses(self, terms: Mapping[str, float]) -> list[str]:
        """Check the means of one logged interval; returns new warnings."""
        out = []
        for name, value in terms.items():
            out += self._note(
                f"dead {name}", abs(value) < 1e-4, f"loss {name} has vanished ({value:.1e}); {_remedy(name)}"
            )
        return out

    def curves(self, curves: Curves, progress: float) -> list[str]:
        """Check the losses of a whole training, at any number of steps; returns new warnings, each with its remedy.

        The losses of a discriminator are a pair `NAME_real` and `NAME_fake`, with any suffix; they may rise and fall
        with the generator. Any other loss with a curve on held-out faces is an objective of its own: it must fall on
        both.

        Args:
            curves: see `curves.loss_curves`.
            progress: share of the training that is done, 0 to 1.
        """
        out = []
        for name, curve in curves.items():
            if name.startswith(HELD_OUT) or len(curve[0]) < _FEWEST:
                continue
            rise, step = _over_fitting(curve, curves.get(HELD_OUT + name, ([], [])))
            out += self._note(
                f"over-fitting {name}",
                rise > 0.1,
                f"over-fitting: {name} on held-out faces has risen by {rise:.0%} since step {step}, while it fell on "
                "the training set; use the snapshot of that step, more pictures, --flip or a smaller network",
            )
            begin, now = _mean(curve, 0, 0.1), _mean(curve, 0.8, 1)
            pair = name.replace("_real", "").replace("_fake", "")
            stuck = pair == name and HELD_OUT + name in curves and progress >= 0.3 and now > 0.9 * begin
            out += self._note(
                f"under-fitting {name}",
                stuck,
                f"under-fitting: {name} is at its initial value ({begin:.3g}, now {now:.3g}); "
                "try another --lr, more --epochs or a larger network",
            )
            if pair == name:
                rise = _drift(curve) if progress >= 0.5 else 0.0
                out += self._note(
                    f"drift {name}",
                    rise > 0.3,
                    f"drift: {name} has risen by {rise:.0%} over the second half of the training so far; "
                    "use a snapshot before it, or a lower --lr",
                )
            elif "_fake" in name and (other := name.replace("_fake", "_real")) in curves:
                real, fake = _mean(curves[other], 0.9, 1), _mean(curve, 0.9, 1)
                out += self._note(
                    f"won {pair}",
                    fake < 0.02 and real < 0.35,
                    f"discriminator {pair} has won (its error on fakes is {fake:.2g}), so that the generator gets no "
                    "useful gradient; use a lower --d_rate, --d_pause, --d_reset, --head_start "
                    "or --label_smoothing where the model has them, else a smaller --ndf",
                )
        return out

    def _note(self, trouble: str, present: bool, text: str) -> list[str]:
        self.seen[trouble] = self.seen.get(trouble, 0) + 1 if present else 0
        return [text] if self.seen[trouble] == self.patience else []


def _remedy(name: str) -> str:
    """The remedy for a loss that has vanished."""
    if name.startswith("d_"):
        return "use a lower --ndf or --lr"
    return "harmless if it measures an error; else use a lower --lr"


def _mean(curve: Curve, begin: float, end: float) -> float:
    """Mean over the points between two shares of the steps so far; the nearest point if there is none."""
    steps, values = curve
    inside = [v for s, v in zip(steps, values, strict=True) if begin * steps[-1] < s <= end * steps[-1]]
    return fmean(inside) if inside else values[-1] if end == 1 else values[0]


def _over_fitting(curve: Curve, held_out: Curve) -> tuple[float, int]:
    """Relative rise of the held-out loss since its best step while the training loss fell, and that step.

    Means of three points are compared; 0 if there are too few, or the best is recent.
    """
    steps, values = held_out
    if len(steps) < 6:
        return 0.0, 0
    means = [fmean(values[i - 1 : i + 2]) for i in range(1, len(values) - 1)]
    best = min(range(len(means)), key=means.__getitem__)
    at = steps[best + 1]
    share = at / curve[0][-1]
    fell = share < 0.8 and _mean(curve, 0.9, 1) < 0.98 * _mean(curve, share - 0.05, share + 0.05)
    return (means[-1] / means[best] - 1 if fell and means[best] > 0 else 0.0), at


def _drift(curve: Curve) -> float:
    """Relative rise of a loss over the second half, if it rose in both of its halves and beyond its noise."""
    steps, values = curve
    first, second, third = (_mean(curve, a, b) for a, b in ((0.5, 2 / 3), (2 / 3, 5 / 6), (5 / 6, 1)))
    late = [v for s, v in zip(steps, values, strict=True) if s > 5 / 6 * steps[-1]]
    if len(late) < 4 or not first > 0 or not first < second < third:
        return 0.0
    return third / first - 1 if third - first > 3 * stdev(late) / len(late) ** 0.5 else 0.0
