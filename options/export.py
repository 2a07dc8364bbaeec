"""The flags of export.py."""

from collections.abc import Sequence

from cyclegan_age.config import ExportConfig
from options.parse import parse


def parse_export(argv: Sequence[str]) -> ExportConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or an invalid value.
    """
    description = "Write trained weights as an ONNX file, a page for the browser or another program, or in fewer bits."
    return parse(ExportConfig, argv, prog="export.py", description=description, default=ExportConfig())
