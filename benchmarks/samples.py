"""KID of faces from noise, at their own size and reduced to 64 px, beside that of other real faces."""

import sys

from benchmarks.systems_comparison import AGES, REDUCED, SIDE, Realism
from cyclegan_age.config import EvaluateConfig
from cyclegan_age.runs import find_weights
from options.bench import SamplesBenchConfig, parse_samples_bench
from options.command import command


@command(parse_samples_bench, interrupted="stopped")
def main(config: SamplesBenchConfig) -> None:
    """Measure and print the table."""
    files = [find_weights(one, config.results_dir) for one in config.weights]
    realism = Realism(
        EvaluateConfig(
            dataroot=config.test,
            weights=("",),
            limit=config.limit,
            target_age=AGES,
            results_dir=config.results_dir,
            name="samples",
        )
    )

    def row(name: str, own: float, reduced: float) -> None:
        print(f"| {name} | {own:.1f} | {reduced:.1f} |", flush=True)

    print(f"| faces | KID x 1000 | reduced to {REDUCED} px |\n|---|---|---|", flush=True)
    row(f"real, {SIDE} px", *(realism.of_faces(config.dataroot, side) for side in (SIDE, REDUCED)))
    for name, file in zip(config.weights, files, strict=True):
        row(name, realism.of_samples(file), realism.of_samples(file, REDUCED))


if __name__ == "__main__":
    sys.exit(main())
