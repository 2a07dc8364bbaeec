"""What an audit finds in a folder that has one of each fault."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage.data import astronaut

import prepare as prepare_command
from cyclegan_age.config import UserError
from options.prepare import parse_prepare


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    root = tmp_path / "faces"
    for folder in ("train/40-44", "val/40-44", "val/60-64"):
        (root / folder).mkdir(parents=True)
    photo = Image.fromarray(astronaut()).crop((100, 0, 356, 256))
    photo.save(root / "train/40-44/44_1_0_mine+ann+a.png")
    (root / "val/60-64/62_1_0_mine+ann+b.png").write_bytes((root / "train/40-44/44_1_0_mine+ann+a.png").read_bytes())
    photo.resize((180, 180)).save(root / "train/40-44/44_1_0_mine+cleo+small.jpg", quality=60)
    photo.transpose(Image.Transpose.ROTATE_90).save(root / "train/40-44/44_1_0_turned.png")
    photo.filter(ImageFilter.GaussianBlur(5)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("L").save(
        root / "train/40-44/soft.png"
    )
    pair = Image.new("RGB", (512, 256))
    pair.paste(photo, (0, 0))
    pair.paste(photo, (256, 0))
    pair.save(root / "val/40-44/pair.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((256, 256)).save(root / "val/40-44/noise.png")
    (root / "val/40-44/broken.jpg").write_bytes(b"not a picture")
    return root


def test_each_fault_is_found_and_nothing_is_changed(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in faulty.rglob("*.*")}
    words = ["audit", str(faulty), "--results_dir", str(tmp_path / "results"), "--workers", "0"]
    assert prepare_command.main(words) == 0
    report = tmp_path / "results" / "audit-001"
    with (report / "audit.csv").open() as f:
        found = [(line["finding"], Path(line["file"]).name) for line in csv.DictReader(f)]
    for one in (
        ("broken file", "broken.jpg"),
        ("near copy", "44_1_0_mine+cleo+small.jpg"),
        ("copy in another split", "62_1_0_mine+ann+b.png"),
        ("copy of another age", "62_1_0_mine+ann+b.png"),
        ("person in two splits", "44_1_0_mine+ann+a.png"),
        ("person in two splits", "62_1_0_mine+ann+b.png"),
        ("turned", "44_1_0_turned.png"),
        ("several faces", "pair.png"),
        ("no face", "noise.png"),
        ("blurred", "soft.png"),
        ("grey", "soft.png"),
    ):
        assert one in found, one
    assert not [name for kind, name in found if kind in ("no face", "turned", "grey", "blurred") and "mine+" in name]
    assert ("person in two splits", "44_1_0_mine+cleo+small.jpg") not in found
    page = (report / "index.html").read_text()
    assert "turned: 1" in page and page.count("<figure>") == len(found) and "<script" not in page
    assert "8 pictures, 8 with findings" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in faulty.rglob("*.*")} == before


def test_the_same_bytes_are_told_from_near_copies(faulty: Path, tmp_path: Path) -> None:
    (faulty / "train/40-44/44_1_0_mine+cleo+small.jpg").unlink()
    words = ["audit", str(faulty), "--results_dir", str(tmp_path / "results"), "--workers", "0"]
    assert prepare_command.main(words) == 0
    text = (tmp_path / "results/audit-001/audit.csv").read_text()
    assert "same bytes,val/60-64/62_1_0_mine+ann+b.png,of train/40-44/44_1_0_mine+ann+a.png" in text
    assert "near copy" not in text


def test_a_folder_without_pictures_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_command.main(["audit", str(tmp_path)]) == 2
    assert prepare_command.main(["audit", str(tmp_path / "none")]) == 2
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "no pictures in it; give a folder of faces",
        "no such folder; give one of faces",
    ]
    with pytest.raises(UserError, match=r"^FOLDER: not given"):
        parse_prepare(["audit"])
