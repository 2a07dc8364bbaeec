"""Size, speed and pictures of exported weights: `python -m benchmarks.export --weights RUN` prints a table."""

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.inside import machine
from cyclegan_age.config import ExportConfig, UserError, needs
from cyclegan_age.export import graph, program, stored_as
from cyclegan_age.images import to_float
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.runs import CROP_WEIGHTS, find_weights
from options.command import command
from options.export import parse_export

Run = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
AGES = 10


def in_int8(model: bytes) -> bytes:
    """The model with onnxruntime's dynamic quantisation, so that it computes in int8 too."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        plain = onnx.load_model_from_string(model)
        del plain.graph.value_info[:]  # shapes of the traced batch; the quantiser would take them as fixed
        stored = {one.name: one for one in plain.graph.initializer}
        for i, node in enumerate(plain.graph.node):  # the quantiser would transpose shared weights twice
            if node.op_type == "Gemm":
                plain.graph.initializer.add().CopyFrom(stored[node.input[1]])
                node.input[1] = plain.graph.initializer[-1].name = f"{node.input[1]}_{i}"
        onnx.save_model(plain, paths[0])
        quantize_dynamic(*paths, weight_type=QuantType.QInt8)
        return paths[1].read_bytes()


def by_onnx(model: bytes) -> Run:
    """Runs a model on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options)
    return lambda x, age: np.asarray(session.run(["aged"], {"picture": x, "age": age})[0])


def by_torch(network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Run:
    """Runs a network of PyTorch."""

    def run(x: NDArray[np.float32], age: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = network(torch.from_numpy(x), torch.from_numpy(age)).numpy()
            return result

    return run


def table(ager: Ager, model: bytes, rounds: int = 5) -> str:
    """Rows in Markdown: size, time and difference from PyTorch of each format, on the built-in portrait at ten ages.

    The formats run in turn; the shortest time of each counts.

    Args:
        ager: the weights.
        model: the ONNX model that `graph` makes of them.
        rounds: number of timed rounds.
    """
    picture = to_float(ager.letterbox(demo_portrait(ager.frame)).square).numpy()
    first, last = ager.code.anchors[0], ager.code.anchors[-1]
    ages = ager.code.encode(np.linspace(first, last, AGES).tolist()).numpy()
    exported, network = program(ager), ager.engine.network
    forms: dict[str, tuple[int, Run]] = {
        "PyTorch": (sum(p.numel() * 4 for p in network.parameters()), by_torch(network)),
        "`.pt2`": (len(exported), by_torch(torch.export.load(io.BytesIO(exported)).module())),
    }
    variants = {f"`.onnx`, {one}": stored_as(model, one) for one in ("fp32", "fp16", "int8")}
    for name, data in {**variants, "(computing in int8)": in_int8(model)}.items():
        forms[name] = (len(data), by_onnx(data))
    shortest = dict.fromkeys(forms, float("inf"))
    made: dict[str, NDArray[np.float32]] = {}
    for _ in range(rounds):
        for name, (_, run) in forms.items():
            begin = time.perf_counter()
            run(picture, ages[:1])
            shortest[name] = min(shortest[name], time.perf_counter() - begin)
    for name, (_, run) in forms.items():
        made[name] = np.concatenate([run(picture, ages[i : i + 1]) for i in range(AGES)])
    lines = [
        "| form | MB | time of a face | mean difference | largest |",
        "| - | -: | -: | -: | -: |",
    ]
    for name, (size, _) in forms.items():
        levels = np.abs(made[name] - made["PyTorch"]) * 127.5
        ratio = shortest[name] / shortest["PyTorch"]
        lines.append(f"| {name} | {size / 1e6:.1f} | {ratio:.2f} | {levels.mean():.4f} | {levels.max():.3f} |")
    return "\n".join(lines)


@command(parse_export)
def main(config: ExportConfig) -> None:
    """Print the table."""
    with needs("onnxruntime"):
        import onnxruntime  # noqa: F401
    torch.set_num_threads(1)
    ager = Ager.load(find_weights(config.weights, config.results_dir, CROP_WEIGHTS))
    if ager.domains:
        raise UserError(f"--weights {config.weights}: have no ages; expected weights of an age-conditional model")
    ager.engine.network.cpu()
    print(f"{machine()}\n\n{table(ager, graph(ager))}")


if __name__ == "__main__":
    sys.exit(main())
