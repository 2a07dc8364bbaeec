"""Warnings of a training that goes wrong: copying, collapse, a loss that has died."""

from collections.abc import Mapping

from torch import Tensor


class Watchdog:
    """Looks at sample sheets and logged losses; each trouble is told once until it is over.

    Args:
        patience: looks in a row that must show a trouble before it is told.
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
                "copy", change < 0.02, f"output equals input (largest mean change {change:.3f} of a range of 2)"
            ),
            *self._note(
                "collapse", bool(narrow), f"samples collapse: different faces come out alike at {', '.join(narrow)}"
            ),
        ]

    def losses(self, terms: Mapping[str, float]) -> list[str]:
        """Check the means of one logged interval; returns new warnings."""
        out = []
        for name, value in terms.items():
            out += self._note(f"dead {name}", abs(value) < 1e-4, f"loss {name} has died ({value:.1e})")
        return out

    def _note(self, trouble: str, present: bool, text: str) -> list[str]:
        self.seen[trouble] = self.seen.get(trouble, 0) + 1 if present else 0
        return [text] if self.seen[trouble] == self.patience else []
