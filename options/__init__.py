"""The command line."""

import importlib.util
import sys

if importlib.util.find_spec("tyro") is None:
    remedy = "make demo installs them; then: source .venv/bin/activate"
    print(f"{sys.executable}: the packages of requirements.txt are not installed; {remedy}", file=sys.stderr)
    sys.exit(2)
