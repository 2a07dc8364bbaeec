"""The flags of convert.py."""

from cyclegan_age.config import ConvertConfig
from options.parse import make_parser

parse_convert = make_parser(
    ConvertConfig,
    "convert.py",
    "Read a generator of CycleGAN, pix2pix or CUT, and write it as weights for the other commands.",
)
