"""The flags of export.py."""

from cyclegan_age.config import ExportConfig
from options.parse import make_parser

parse_export = make_parser(
    ExportConfig,
    "export.py",
    "Write trained weights as an ONNX file, a page for the browser or another program, or in fewer bits.",
)
