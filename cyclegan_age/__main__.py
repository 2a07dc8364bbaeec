"""The command `cyclegan-age VERB ...`, or `python -m cyclegan_age VERB ...`: `python VERB.py ...` in a checkout."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclegan_age.config import INSTALLED

# The scripts, with a description of each.
VERBS = {
    "train": "train a model on a folder of faces sorted by age",
    "test": "render faces at other ages",
    "evaluate": "score weights on faces of known age",
    "demo": "serve the page and the REST service",
    "prepare": "make age folders of a public data set, or look for faults in them",
    "export": "write weights for programs without PyTorch",
    "convert": "read generators of CycleGAN, pix2pix and CUT",
    "batch": "render many pictures over processes and machines",
}
USAGE = "\n".join(
    [
        "usage: cyclegan-age VERB [FLAGS]",
        "",
        *(f"  {verb:9} {does}" for verb, does in VERBS.items()),
        "",
        "cyclegan-age VERB --help lists the flags of a verb.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script of a verb as Python runs a script; gives the exit status where none was run."""
    verb, *flags = (sys.argv[1:] if argv is None else argv) or [""]
    if verb in ("-h", "--help"):
        print(USAGE)
        return 0
    if verb not in VERBS:
        print(
            f"{verb or 'VERB'}: {'no verb' if verb else 'missing'}; must be one of {', '.join(VERBS)}", file=sys.stderr
        )
        return 2
    here = Path(__file__).resolve().parent
    folder = here / "verbs" if INSTALLED else here.parent
    script = str(folder / f"{verb}.py")
    sys.path.insert(0, str(folder))  # so that it finds `options`
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
