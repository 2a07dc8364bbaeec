"""The flags of evaluate.py."""

from cyclegan_age.config import EvaluateConfig
from options.parse import make_parser

parse_evaluate = make_parser(
    EvaluateConfig,
    "evaluate.py",
    "Evaluate weights on faces of known age: age, order, identity, realism, preservation, fairness.",
)
