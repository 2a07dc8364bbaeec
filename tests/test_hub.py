"""Weights as a folder of the Hugging Face Hub: written, read again without a network, uploaded to a stub of it."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from cyclegan_age.config import CycleGANConfig, GANConfig, TrainConfig, UserError
from cyclegan_age.hub import Card
from cyclegan_age.inference import Ager
from cyclegan_age.models import cyclegan, gan
from cyclegan_age.models.base import Renderer
from cyclegan_age.weight_files import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train = TrainConfig(image_size=32, load_size=36, ages=(10, 40), dataroot=Path("secret/faces"), name="secret")
    net = CycleGANConfig(ngf=4, blocks=1)
    generator = cyclegan.build_generator(train, net)
    for p in generator.parameters():
        torch.nn.init.normal_(p, 0, 0.3)
    path = tmp_path_factory.mktemp("runs") / "001-tiny" / "weights.safetensors"
    save_weights(path, train, net, 1234, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    return path


def test_a_folder_is_written_and_read_without_a_network(weights: Path, tmp_path: Path) -> None:
    ager, folder = Ager.load(weights), tmp_path / "ages"
    ager.save_pretrained(folder, Card(license="mit", datasets=["my faces: 2"]))
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = Ager.from_pretrained(str(folder))
    faces = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert np.array_equal(ager.age_many(faces, [15, 40]), again.age_many(faces, [15, 40]))
    assert not np.array_equal(again.age_many(faces, [15, 40]), faces)

    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["ages"], config["image_size"]) == ("cyclegan", [10, 40], 32)
    assert config["net"]["ngf"] == 4
    card = ModelCard.load(folder / "README.md")
    assert (
        card.data.to_dict()
        == metadata_load(folder / "README.md")
        == {
            "library_name": "cyclegan-age",
            "pipeline_tag": "image-to-image",
            "license": "mit",
            "tags": ["face-aging", "cyclegan"],
            "datasets": ["my faces: 2"],
        }
    )
    assert "# 001-tiny" in card.text and 'from_pretrained("ages")' in card.text
    assert all(b"secret" not in path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors")


def test_runs_and_files_are_read_too(weights: Path) -> None:
    for source in (weights, weights.parent, str(weights)):
        assert Ager.from_pretrained(source).mark.weights.startswith("001-tiny ")


def test_the_card_of_the_shipped_weights_says_their_terms(tmp_path: Path) -> None:
    Ager.load().save_pretrained(tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.license_name) == ("other", "non-commercial-research-only")
    assert data.datasets == ["UTKFace", "All-Age-Faces"]


def test_models_that_make_faces_from_noise_say_so(tmp_path: Path) -> None:
    train, net = (
        TrainConfig(model="gan", image_size=32, load_size=32, ages=(10, 20)),
        GANConfig(z=4, g_channels=(4, 4, 4), d_channels=(4, 4, 4)),
    )
    tensors = {f"generator.{k}": v for k, v in gan.build_generator(train, net).state_dict().items()}
    save_weights(tmp_path / "gan.safetensors", train, net, 0, tensors)
    Ager.load(tmp_path / "gan.safetensors").save_pretrained(tmp_path / "hub")
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.pipeline_tag == "unconditional-image-generation" and "ager.sample" in card.text


class Api:
    """What stands for the Hub."""

    def __init__(self, token: str | None = None) -> None:
        assert token == "hf_mine"

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        assert private and exist_ok
        if repo_id == "others/ages":
            raise RepositoryNotFoundError("403 Forbidden:\nmore", response=response(403))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, Api.hub / repo_id)

    hub = Path()


def response(status: int) -> Any:  # huggingface_hub may have an httpx of its own
    return httpx.Response(status, request=httpx.Request("POST", "https://huggingface.co"))


def test_weights_go_to_the_hub_and_come_from_it(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, name: str, *, revision: str | None) -> str:
        asked.append(name)
        path = tmp_path / repo / name
        if not path.is_file():
            raise LocalEntryNotFoundError("offline")
        return str(path)

    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(Api, "hub", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    ager = Ager.load(weights)
    assert ager.push_to_hub("me/ages", private=True, token="hf_mine") == "https://huggingface.co/me/ages"
    assert 'from_pretrained("me/ages")' in (tmp_path / "me/ages/README.md").read_text()
    assert Ager.from_pretrained("me/ages").code.anchors == (10, 40)
    assert asked == ["config.json", "model.safetensors"]  # the first is what the Hub counts
    with pytest.raises(UserError, match=r"^me/other: neither a file nor a folder, and not read .*no network[^\n]*$"):
        Ager.from_pretrained("me/other")
    with pytest.raises(UserError, match=r"^others/ages: not uploaded \(403 Forbidden:.*\); check[^\n]*$"):
        ager.push_to_hub("others/ages", private=True, token="hf_mine")


def test_what_cannot_be_done_is_one_line(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"^[^\n]*: no model\.safetensors or weights\.safetensors in this folder; expected"
    ):
        Ager.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^a/b/c: neither a file nor a folder, and not read from the Hub \(Repo id"):
        Ager.from_pretrained("a/b/c")
    ager = Ager.load(weights)
    with pytest.raises(UserError, match=r"^this Ager has no weights file; must be one of Ager\.load"):
        Ager(Renderer(generator=ager.generator, code=ager.code), image_size=32).save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for do in (lambda: Ager.from_pretrained("me/ages"), lambda: ager.push_to_hub("me/ages")):
        with pytest.raises(UserError, match=r"^huggingface_hub: not installed; run python -m pip install"):
            do()
