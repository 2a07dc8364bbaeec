"""Configuration of `demo.py`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclegan_age.config.fields import Option, check
from cyclegan_age.config.values import PORT


def _below_root(path: str) -> bool:
    return re.fullmatch(r"((/[\w.~-]+)+/?|/?)", path, re.ASCII) is not None


def _origins(origins: tuple[str, ...]) -> bool:
    return all(re.fullmatch(r"\*|https?://[\w.:\[\]-]+", origin, re.ASCII) for origin in origins)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Configuration of `demo.py`."""

    port: Annotated[int, PORT] = 7860
    """Port of the page and of the REST service."""
    host: Annotated[str, Option(valid=bool, must_be="an address such as 127.0.0.1")] = "127.0.0.1"
    """Address to listen on; a loopback address is unreachable from other machines."""
    weights: tuple[str, ...] = ()
    """.safetensors files or names of runs to choose from on the page; default: the shipped cyclegan_heads, cyclegan and
    caae."""
    results_dir: Path = Path("results")
    """Folder of the runs."""
    megabytes: Annotated[float, Option(above=0, at_most=1000)] = 20.0
    """Largest accepted file, in millions of bytes."""
    megapixels: Annotated[float, Option(above=0, at_most=120)] = 50.0
    """Largest accepted picture, in millions of pixels."""
    waiting: Annotated[int, Option(at_least=1)] = 16
    """Requests that may wait while one is processed; more are refused."""
    seconds: Annotated[float, Option(above=0)] = 120.0
    """Time limit of a request, waiting included."""
    root_path: Annotated[str, Option(valid=_below_root, must_be="a path like /aging")] = ""
    """Path below which a proxy serves the page, such as /aging, if it sends no X-Forwarded-Prefix."""
    allow_origin: Annotated[
        tuple[str, ...], Option(valid=_origins, must_be="a scheme and a host like https://example.org, or *")
    ] = ()
    """Origins whose pages may use the service from the browser, such as https://example.org; * allows all."""
    provenance: bool = True
    """Mark the answers as aged by a network; --no_provenance omits the mark."""

    def __post_init__(self) -> None:
        check(self)
