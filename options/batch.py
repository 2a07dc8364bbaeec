"""The flags of batch.py."""

from cyclegan_age.config import BatchConfig
from options.parse import make_parser

parse_batch = make_parser(
    BatchConfig, "batch.py", "Age many pictures, on this machine or on the Ray cluster at RAY_ADDRESS."
)
