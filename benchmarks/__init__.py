"""Speed and memory of training and rendering on this machine: `python -m benchmarks`, which `make bench` calls."""

import options as options  # reports missing packages in one line
