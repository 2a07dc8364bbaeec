"""Face parser: semantic segmentation of whole heads, learnt from pictures with masks."""

from cyclegan_age.config import FaceParserConfig
from cyclegan_age.networks.parsers import FaceParser


def build_parser(net: FaceParserConfig) -> FaceParser:
    """The network that a configuration describes."""
    return FaceParser(version=int(net.backbone[-1]), channels=net.channels, input_size=net.input_size)
