"""Speed and memory of training and rendering on this machine: `python -m benchmarks`, which `make bench` calls."""
