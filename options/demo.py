"""The flags of demo.py."""

from cyclegan_age.config import DemoConfig
from options.parse import parser

parse_demo = parser(DemoConfig, "demo.py", "Age faces in the browser, and by REST, on this machine.")
