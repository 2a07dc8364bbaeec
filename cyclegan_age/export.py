"""Trained weights for elsewhere: the generator as an ONNX graph, or the weights in half precision."""

import importlib.util
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from cyclegan_age.config import ExportConfig, UserError, install_extra
from cyclegan_age.inference import Ager
from cyclegan_age.models.base import PictureReader
from cyclegan_age.runs import find_weights, in_half, write_atomically


def export(config: ExportConfig) -> Path:
    """Write weights as the kind of file that the output's name asks for; gives its path.

    A .safetensors file is that of `in_half`, of any model. An .onnx file is the generator of a model from picture
    to picture:

    Inputs: `picture` (N, 3, S, S), float32 RGB in [-1, 1], an aligned face crop, and `age` (N, K), float32, which sums
    to 1. Output: `aged`, like `picture`. N is free. Metadata, each as JSON: `anchors`, the K ages in years that the
    entries of `age` stand for, `age_vector` (`linear`: an age between two anchors is their interpolation; `onehot`: it
    is 1 for its group, which begins at the anchor), `ends` (last years of the groups; may be empty), `image_size`.

    Raises:
        UserError: a package is missing, no such weights, weights that do not take pictures, or the file cannot be
            written.
    """
    weights = find_weights(config.weights, config.results_dir)
    data = in_half(weights) if config.output.suffix == ".safetensors" else _onnx(weights)
    try:
        write_atomically(config.output, data)
    except OSError as e:
        raise UserError(f"--output {config.output}: cannot be written ({e.strerror or e}); give another") from e
    return config.output


def _onnx(weights: Path) -> bytes:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package}: not installed; run {install_extra('export')}")
    ager = Ager.load(weights)
    if not isinstance(ager.reader, PictureReader):
        raise UserError(
            f"--weights {weights}: no network from picture to picture; give a cyclegan's or cyclegan_pair's"
        )
    return graph(ager)


def graph(ager: Ager) -> bytes:
    """The generator of an `Ager` that takes pictures, as a serialised ONNX model; see `export`."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    generator: nn.Module = ager.generator.cpu().to(memory_format=torch.contiguous_format)
    size, code = ager.image_size, ager.code
    free = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")  # both inputs share it, as they should
        program = torch.onnx.export(
            generator,
            (torch.zeros(2, 3, size, size), torch.full((2, len(code)), 1 / len(code))),
            input_names=["picture", "age"],
            output_names=["aged"],
            dynamic_shapes=[free, free],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # it has the source's paths on this machine
    facts = {
        "frame": str(ager.frame),
        "anchors": code.anchors,
        "age_vector": code.form,
        "ends": code.ends,
        "image_size": size,
    }
    program.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
    return bytes(program.model_proto.SerializeToString())
