"""The flags of batch.py."""

from cyclegan_age.config import BatchConfig
from options.parse import parser

parse_batch = parser(
    BatchConfig, "batch.py", "Age many pictures, on this machine or on the Ray cluster at RAY_ADDRESS."
)
