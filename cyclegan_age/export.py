"""Export of trained weights: the generator as ONNX or by torch.export, or the weights in fewer bits."""

import importlib.util
import io
import json
import warnings
from pathlib import Path

import numpy as np
import torch

from cyclegan_age.config import ExportConfig, UserError, install_extra
from cyclegan_age.export_page import check_runtime, page
from cyclegan_age.files import write_atomically, write_error
from cyclegan_age.inference import Ager
from cyclegan_age.models.base import PictureEncoder
from cyclegan_age.runs import CROP_WEIGHTS, find_weights
from cyclegan_age.weight_files import quantised, repacked

_LARGE = 4096  # minimum size of a tensor that `stored_as` converts
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # whose weights it converts; others may be grids of coordinates


def export(config: ExportConfig) -> Path:
    """Write weights in the format of the output's suffix; returns its path.

    .safetensors: the output of `repacked`, for any model. .html: the page of `export_page`. .pt2: the generator by
    torch.export, with the inputs and output below. .onnx: the generator of an image-to-image model:

    Inputs: `picture` (N, 3, S, S), float32 RGB in [-1, 1], an aligned face crop, and `age` (N, K), float32, which sums
    to 1. Output: `aged`, like `picture`. N is free. Metadata, each as JSON: `anchors`, the K ages in years of the
    entries of `age`; `age_vector` (`linear`: an age between two anchors is their interpolation; `onehot`: it is 1 for
    its group, which begins at the anchor); `ends` (last years of the groups; may be empty); `image_size`.

    Weights without ages take a `picture` of any kind and output `translated`; those of two domains also take `domain`
    (N, 2), the weight of each. Metadata are `domains`, their names, and `image_size`.

    Raises:
        UserError: a package is missing, no such weights, weights of no image-to-image model, or the file cannot be
            written.
    """
    weights = find_weights(config.weights, config.results_dir, CROP_WEIGHTS)
    suffix = config.output.suffix
    if suffix == ".safetensors":
        data = repacked(weights, "int8" if config.precision == "int8" else "fp16")
    elif suffix == ".pt2":
        data = program(_taking_pictures(weights))
    else:
        data = _onnx(weights, config)
    try:
        write_atomically(config.output, data)
    except OSError as e:
        raise write_error(f"--output {config.output}", e, "or choose another file") from e
    return config.output


def _onnx(weights: Path, config: ExportConfig) -> bytes:
    """An ONNX file, or the page that contains it."""
    runtime = check_runtime(config.web_runtime) if config.output.suffix == ".html" else None
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package}: not installed; run {install_extra('export')}")
    ager = _taking_pictures(weights)
    data = stored_as(graph(ager), config.precision)
    return data if runtime is None else page(data, metadata(data), ager.mark, runtime)


def metadata(data: bytes) -> dict[str, object]:
    """The metadata of an ONNX file."""
    import onnx

    return {one.key: json.loads(one.value) for one in onnx.load_model_from_string(data).metadata_props}


def _taking_pictures(weights: Path) -> Ager:
    ager = Ager.load(weights)
    if not isinstance(ager.encoder, PictureEncoder):
        kinds = "a cyclegan's, cyclegan_heads' or cyclegan_pair's"
        raise UserError(f"--weights {weights}: no image-to-image network; expected {kinds}")
    return ager


def program(ager: Ager) -> bytes:
    """The generator by torch.export, for `torch.export.load`, with a free batch size."""
    network = ager.engine.network.cpu().to(memory_format=torch.contiguous_format)
    free, example = {0: torch.export.Dim("batch")}, _example(ager)
    program = torch.export.export(network, example, dynamic_shapes=tuple(free for _ in example), strict=False)
    out = io.BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


def _example(ager: Ager) -> tuple[torch.Tensor, ...]:
    """Example inputs of the generator, for two pictures: these and, except for weights of one domain, vectors (2,
    K)."""
    pictures, entries = torch.zeros(2, 3, ager.image_size, ager.image_size), len(ager.code)
    return (pictures,) if len(ager.domains) == 1 else (pictures, torch.full((2, entries), 1 / entries))


def stored_as(model: bytes, precision: str) -> bytes:
    """An ONNX file whose large weights are stored in `fp16`, or in `int8` with a scale for each output channel.

    They become fp32 when the file is loaded or run: the file shrinks, and every runtime computes in fp32.
    """
    if precision in ("default", "fp32"):
        return model
    import onnx
    from onnx import helper, numpy_helper

    whole = onnx.load_model_from_string(model)
    weights = {name for node in whole.graph.node if node.op_type in _LAYERS for name in node.input}
    kept, before = [], []
    for tensor in whole.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name not in weights or values.dtype != np.float32 or values.size < _LARGE or values.ndim < 2:
            kept.append(tensor)
            continue
        name = f"{tensor.name}_{precision}"
        if precision == "fp16":
            kept.append(numpy_helper.from_array(values.astype(np.float16), name))
            before.append(helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT))
            continue
        steps, scale = (one.numpy() for one in quantised(torch.from_numpy(values.copy())))
        kept += [numpy_helper.from_array(steps, name), numpy_helper.from_array(scale.reshape(-1), f"{name}_scale")]
        before.append(helper.make_node("DequantizeLinear", [name, f"{name}_scale"], [tensor.name], axis=0))
    nodes = [*before, *whole.graph.node]
    del whole.graph.initializer[:], whole.graph.node[:]
    whole.graph.initializer.extend(kept)
    whole.graph.node.extend(nodes)
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString())


def graph(ager: Ager) -> bytes:
    """The generator of an `Ager` that takes pictures, as a serialised ONNX model; see `export`."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    network = ager.engine.network.cpu().to(memory_format=torch.contiguous_format)
    size, code = ager.image_size, ager.code
    free = {0: torch.export.Dim("batch")}
    example = _example(ager)
    names = ["picture", "domain" if ager.domains else "age"][: len(example)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")  # both inputs share it, as intended
        program = torch.onnx.export(
            network,
            example,
            input_names=names,
            output_names=["translated" if ager.domains else "aged"],
            dynamic_shapes=[free for _ in names],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # it contains paths of this machine
    facts: dict[str, object] = {"image_size": size}
    if ager.domains:
        facts["domains"] = ager.domains
    else:
        facts |= {"frame": str(ager.frame), "anchors": code.anchors, "age_vector": code.form, "ends": code.ends}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
    return bytes(program.model_proto.SerializeToString())
