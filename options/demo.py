"""The flags of demo.py."""

from cyclegan_age.config import DemoConfig
from options.parse import make_parser

parse_demo = make_parser(DemoConfig, "demo.py", "Age faces in the browser, and by REST, on this machine.")
