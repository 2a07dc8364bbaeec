"""Taps on the layers of a network: what flows through them, its gradients, and decoding on from a layer.

A layer is any named module that gives one feature map (N, C, H, W); `layer_names` lists the main ones of a network.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import UserError
from cyclegan_age.networks.blocks import Layered


def layer_names(network: nn.Module) -> list[str]:
    """Names of a network's main layers in the order of their definition, in this package also that of execution.

    These are its children; a sequence of modules, or a whole generator, stands for its members (`blocks.0`, ...). What
    gives no feature map, linear layers and such, is left out. Parts of a layer have names too: `blocks.0.conv1`.
    """
    names: list[str] = []
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList | Layered):
            names += [f"{name}.{inner}" for inner in layer_names(child)]
        elif not isinstance(child, nn.Linear | nn.Flatten | nn.Embedding | nn.ModuleDict):
            names.append(name)
    return names


def middle_layer(network: nn.Module) -> str:
    """Where features are blended if nothing else is said: `blocks.2`, or else the layer in the middle."""
    layers = layer_names(network)
    return "blocks.2" if "blocks.2" in layers else layers[len(layers) // 2]


def find_layers(network: nn.Module, names: Sequence[str], place: str = "") -> dict[str, nn.Module]:
    """The modules of these names, layers or parts of layers; `place` says in an error where the names come from.

    Raises:
        UserError: a name that the network does not have; the text lists its layers.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    for name in names:
        if name not in modules:
            raise UserError(f"{place}layer {name!r}: not in this network; it has {', '.join(layer_names(network))}")
    return {name: modules[name] for name in names}


class Taps:
    """Record what goes into and comes out of named layers, without changing the network's output.

    `with Taps(network, ["stem", "blocks.3"]) as taps: out = network(x, age)`

    Where autograd records, the tensors are those of the graph, so that losses and gradients can be taken of them; a
    layer that then changes one in place changes it here too. Otherwise they are copies. A layer that runs more than
    once keeps its last tensors.

    Args:
        network: the module whose layers are meant.
        names: names of layers.
        gradients: also record the gradients of the layers' outputs; backward has to run inside the `with`.

    Attributes:
        inputs: name -> first input (N, C, H, W) of the layer.
        outputs: name -> its output (N, C, H, W).
        gradients: name -> the gradient of its output, same shape, after a backward pass.

    Raises:
        UserError: a name that the network does not have, or a layer that gives no feature map.
        RuntimeError: gradients asked for where autograd does not record.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], *, gradients: bool = False) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self._layers = find_layers(network, names)
        self._want_gradients = gradients
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "Taps":
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_pre_hook(self._record_input(name), with_kwargs=True))
            self._handles.append(layer.register_forward_hook(self._record_output(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _record_input(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            first = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            if first is not None:
                self.inputs[name] = first if first.requires_grad else first.detach().clone()

        return hook

    def _record_output(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[object, ...], out: object) -> None:
            feature_map = _feature_map(name, out)
            self.outputs[name] = feature_map if feature_map.requires_grad else feature_map.detach().clone()
            if self._want_gradients:
                if not feature_map.requires_grad:
                    raise RuntimeError(f"no gradients of {name}: autograd does not record here")

                def keep(gradient: Tensor) -> None:
                    self.gradients[name] = gradient

                self._handles.append(feature_map.register_hook(keep))

        return hook


def _feature_map(name: str, out: object) -> Tensor:
    if not isinstance(out, Tensor) or out.ndim != 4:
        raise UserError(f"layer {name!r}: must be a layer that gives a feature map")
    return out


@contextmanager
def _replaced(network: nn.Module, layer: str, feature_map: Tensor) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[object, ...], out: object) -> Tensor:
        expected = _feature_map(layer, out).shape
        if feature_map.shape != expected:
            raise ValueError(f"feature map of {layer}: shape {tuple(feature_map.shape)}, not {tuple(expected)}")
        return feature_map

    handle = find_layers(network, [layer])[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def decode_from(network: nn.Module, layer: str, feature_map: Tensor, *inputs: Tensor) -> Tensor:
    """The network's output where `feature_map` stands in for the output of `layer`.

    Args:
        network: called as `network(*inputs)`.
        layer: name of a layer.
        feature_map: (N, C, H, W), shaped like the layer's own output for these inputs.
        inputs: the network's inputs; what passes by the layer (the residual picture, a mask) still comes from them.

    Raises:
        UserError: no such layer, or it gives no feature map.
        ValueError: the feature map has another shape than the layer's output.
    """
    with _replaced(network, layer, feature_map):
        out: Tensor = network(*inputs)
    return out


def life_frames(
    network: nn.Module,
    x: Tensor,
    code: AgeCode,
    frames_per_decade: int = 12,
    layer: str = "blocks.2",
    calibrated: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """One life from the first to the last anchor age.

    The features of `layer` at two neighbouring anchors are interpolated and decoded on; the age vector is interpolated
    with them. At the anchors the frames are the network's plain outputs.

    Args:
        network: generator, called as `network(x, age)`.
        x: one picture (1, 3, S, S) in [-1, 1].
        code: what turns ages into vectors.
        frames_per_decade: frames in ten years, at least 1.
        layer: name of a layer.
        calibrated: the picture and age vectors (1, K) -> the age vectors to give the network; by default these.

    Returns:
        (F, 3, S, S) in [-1, 1]; between anchors ten years apart lie `frames_per_decade` steps.
    """
    if frames_per_decade < 1:
        raise ValueError(f"frames_per_decade {frames_per_decade}: at least 1")
    vectors = code.encode(code.nominal_years).to(x.device)
    features: list[Tensor] = []
    outputs: list[Tensor] = []
    for vector in vectors:
        age = calibrated(x, vector[None]) if calibrated else vector[None]
        with Taps(network, [layer]) as taps:
            outputs.append(network(x, age))
        features.append(taps.outputs[layer])
    frames: list[Tensor] = []
    for k, (low, high) in enumerate(zip(code.anchors, code.anchors[1:], strict=False)):
        steps = max(1, round(frames_per_decade * (high - low) / 10))
        frames.append(outputs[k])
        for i in range(1, steps):
            weight = i / steps
            feature_map = torch.lerp(features[k], features[k + 1], weight)
            age = torch.lerp(vectors[k], vectors[k + 1], weight)[None]
            frames.append(decode_from(network, layer, feature_map, x, calibrated(x, age) if calibrated else age))
    return torch.cat([*frames, outputs[-1]])
