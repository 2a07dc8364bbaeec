"""Configurations of `export.py` and `convert.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclegan_age.config.fields import Option, check, require


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Configuration of `export.py`."""

    weights: str = ""
    """A .safetensors file or the name of a run; default: the shipped cyclegan."""
    output: Annotated[Path, Option(endings=(".onnx", ".html", ".pt2", ".safetensors"))] = Path("age.onnx")
    """The file to write: .onnx, .html for a page that ages faces without a server, .pt2 for a program of torch.export,
    or .safetensors for the weights themselves in fewer bits."""
    precision: Literal["default", "fp32", "fp16", "int8"] = "default"
    """Storage of the weights, which compute in fp32. The default is fp16 in .safetensors, fp32 elsewhere."""
    web_runtime: Path = Path("node_modules/onnxruntime-web")
    """For .html: the folder of the npm package onnxruntime-web."""
    results_dir: Path = Path("results")
    """Folder of the runs."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse a precision that the file's format does not store."""
        stored = {".pt2": ("default", "fp32"), ".safetensors": ("default", "fp16", "int8")}.get(self.output.suffix)
        valid = stored is None or self.precision in stored
        require(self, "precision", valid, "fp16 or int8 with .safetensors, fp32 with .pt2")


def _side(pixels: int) -> bool:
    return pixels == 0 or (pixels >= 32 and pixels % 4 == 0)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Configuration of `convert.py`."""

    cg: Annotated[
        tuple[Path, ...],
        Option(
            required="a generator's file, such as latest_net_G.pth",
            max_length=2,
            must_be="one or two .pth files of generators",
        ),
    ] = ()
    """Weights of a generator of pytorch-CycleGAN-and-pix2pix or CUT, such as latest_net_G.pth; or two of them, from A
    to B and from B to A: latest_net_G_A.pth latest_net_G_B.pth."""
    output: Annotated[Path, Option(endings=(".safetensors",))] = Path("converted.safetensors")
    """The file to write."""
    image_size: Annotated[int, Option(valid=_side, must_be="a multiple of 4, at least 32, or 0")] = 0
    """Side in pixels of the pictures to translate; 0 takes 256, or 128 for a unet_128."""
    group_a: str = "A"
    """Name of domain A; an age group such as 20-29 enables face detection in photographs."""
    group_b: str = "B"
    """Name of domain B, in the same way."""

    def __post_init__(self) -> None:
        check(self)
