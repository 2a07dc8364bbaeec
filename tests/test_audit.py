"""What an audit finds in a folder that has one of each fault."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage.data import astronaut

import prepare as prepare_command
from cyclegan_age.audit import defects, measurements, moves, plans
from cyclegan_age.audit.find import Finding
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
    assert "turned: 1" in page and page.count("<figure") == len(found) and "<script" not in page
    assert "8 pictures, 8 with findings" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in faulty.rglob("*.*")} == before


def test_identical_files_are_distinguished_from_near_copies(faulty: Path, tmp_path: Path) -> None:
    (faulty / "train/40-44/44_1_0_mine+cleo+small.jpg").unlink()
    words = ["audit", str(faulty), "--results_dir", str(tmp_path / "results"), "--workers", "0"]
    assert prepare_command.main(words) == 0
    text = (tmp_path / "results/audit-001/audit.csv").read_text()
    assert "same bytes,val/60-64/62_1_0_mine+ann+b.png,of train/40-44/44_1_0_mine+ann+a.png" in text
    assert "near copy," not in text


def test_a_folder_without_pictures_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_command.main(["audit", str(tmp_path)]) == 2
    assert prepare_command.main(["audit", str(tmp_path / "none")]) == 2
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "no pictures in it; expected a folder of faces",
        "no such folder; expected a folder of faces",
    ]
    with pytest.raises(UserError, match=r"^FOLDER: required; expected a folder"):
        parse_prepare(["audit"])


def audited(root: Path, results: Path, *words: str) -> int:
    return prepare_command.main(["audit", str(root), "--results_dir", str(results), "--workers", "0", *words])


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def findings(results: Path, number: int = 1) -> list[tuple[str, str, str]]:
    with (results / f"audit-{number:03d}" / "audit.csv").open() as f:
        return [(line["finding"], Path(line["file"]).name, line["detail"]) for line in csv.DictReader(f)]


def test_a_folder_where_no_picture_shows_a_face_is_reported(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for i, small in enumerate(noise):
        (tmp_path / "faces" / "20s").mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((128, 128)).save(tmp_path / "faces" / "20s" / f"{i}.png")
    words = ["audit", str(tmp_path / "faces"), "--results_dir", str(tmp_path / "results"), "--workers", "0"]
    assert prepare_command.main(words) == 0
    with (tmp_path / "results" / "audit-001" / "audit.csv").open() as f:
        found = [(line["finding"], line["file"]) for line in csv.DictReader(f)]
    assert found.count(("no face", "20s/0.png")) == 1 == found.count(("no face", "20s/1.png"))


def test_copies_that_the_hash_misses_are_found_by_the_face(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    (root / "40-44").mkdir(parents=True)
    photo = Image.fromarray(astronaut())
    photo.crop((100, 0, 356, 256)).save(root / "40-44" / "a.png")
    photo.crop((130, 10, 340, 220)).resize((200, 200)).save(root / "40-44" / "cut.png")
    photo.crop((100, 0, 356, 256)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "40-44" / "mirror.jpg")
    assert audited(root, tmp_path) == 0
    found = findings(tmp_path)
    assert [(kind, name) for kind, name, _ in found if "copy" in kind] == [
        ("near copy by its face", "cut.png"),
        ("near copy by its face", "mirror.jpg"),
    ]
    page = (tmp_path / "audit-001/index.html").read_text()
    assert page.count('<figure class="pair"><img') == 2


def test_of_copies_the_one_that_most_is_known_of_stays(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    photo = Image.fromarray(astronaut())
    names = ("train/40-49/a.png", "val/40-49/b.png", "train/60-69/c.png", "train/40-49/d.png")
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo.crop((100, 0, 356, 256)).resize((256 - i, 256 - i)).save(root / name)
    # of a, the cut-out e and c only the group is known, of d an estimate, of b all
    photo.crop((130, 10, 340, 220)).resize((200, 200)).save(root / "train/40-49/Cut.png")
    (root / "labels.csv").write_text("file,age,sex,exact\nval/40-49/b.png,48,1,1\ntrain/40-49/d.png,41,1,0\n")
    assert audited(root, tmp_path, "--fix") == 0
    found = findings(tmp_path)
    copies = [(name, detail.partition(",")[0]) for kind, name, detail in found if "near copy" in kind]
    assert sorted(copies) == [(name, "of val/40-49/b.png") for name in ("Cut.png", "a.png", "c.png", "d.png")]
    assert [name for kind, name, _ in found if kind == "copy of another age"] == ["c.png"]
    with (tmp_path / "audit-001" / "plan.csv").open() as f:
        moved = {line["file"] for line in csv.DictReader(f) if line["action"] == "move"}
    assert moved == {*names, "train/40-49/Cut.png"} - {"val/40-49/b.png"}


def test_ages_far_from_the_label_stand_beside_the_estimate_and_its_error(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    for age in (3, 38, 79):
        (root / f"{age}").mkdir(parents=True)
        Image.fromarray(astronaut()).crop((100, 0, 356, 256)).save(root / f"{age}" / f"{age}_1_0_x{age}.png")
    (root / "labels.csv").write_text("file,age,exact\n38/38_1_0_x38.png,38,0\n3/3_1_0_x3.png,3,1\n")
    assert audited(root, tmp_path) == 0
    found = findings(tmp_path)
    assert [name for kind, name, _ in found if kind == "age far from label"] == ["3_1_0_x3.png", "79_1_0_x79.png"]
    assert any(
        f"label 3, estimate {n} years; the estimator's error is 2.3" in d for _, _, d in found for n in range(20, 60)
    )
    assert [name for kind, name, _ in found if kind == "age not recorded"] == ["38_1_0_x38.png"]


def test_mosaics_and_made_borders_are_found_and_the_picture_itself_is_not() -> None:
    photo = astronaut()[0:256, 100:356]
    inner = Image.fromarray(photo).resize((200, 200))
    small = Image.fromarray(photo).resize((60, 60))
    assert defects.blocks(photo)[0] < 0.25
    for side in (180, 240, 250):  # also by fractions of a pixel
        strength, period = defects.blocks(np.asarray(small.resize((side, side), Image.Resampling.NEAREST)))
        assert strength > 0.4 and period == pytest.approx(side / 60, abs=0.1)
    smooth = np.asarray(small.resize((240, 240), Image.Resampling.BICUBIC))
    assert defects.blocks(smooth)[0] < 0.25
    assert defects.flat_border(photo) == (0.0, "")
    assert defects.mirrored_border(photo) < 0.85 and defects.repeated_border(photo) > 0.4
    for mode, measure in (("reflect", defects.mirrored_border), ("edge", defects.repeated_border)):
        made = np.pad(np.asarray(inner), ((40, 0), (0, 0), (0, 0)), mode=mode)
        value = measure(made)
        assert value > 0.95 if mode == "reflect" else value < 0.1
    for colour, name in ((0, "black"), (255, "white")):
        slanted = inner.rotate(8, fillcolor=(colour,) * 3)
        share, seen = defects.flat_border(np.asarray(slanted))
        assert share > 0.01 and seen == name


def test_another_audit_looks_at_new_pictures_alone(faulty: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert audited(faulty, tmp_path) == 0
    looked: list[Path] = []
    monkeypatch.setattr(
        measurements, "measure", lambda files: looked.extend(files) or [{"broken": "new"} for _ in files]
    )
    (faulty / "val/40-44/soft.png").write_bytes(b"other")
    journal = next((tmp_path / ".audit").iterdir())
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:50])  # killed while it wrote
    torn = json.loads(lines[-1])["mark"].split(" ", 2)[2]
    assert audited(faulty, tmp_path) == 0
    assert {str(p.relative_to(faulty)) for p in looked} == {"val/40-44/soft.png", torn}


LABELS = 'file,age,note\r\na/1.png,1,"two\r\nlines"\r\na/2.png,2,\r\nb/3.png,3,x\r\n'


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Path, Path]:
    root = tmp_path / "set"
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "labels.csv").write_bytes(LABELS.encode())
    some = [
        Finding("blurred", root / "a/1.png"),
        Finding("grey", root / "a/2.png"),
        Finding("turned", root / "b/3.png"),
    ]
    lines, moved = plans.plan(root, some)
    assert moved == 2
    (tmp_path / "plan.csv").write_bytes(lines)
    return root, tmp_path / "plan.csv"


def test_a_plan_moves_pictures_with_their_labels_and_back(planned: tuple[Path, Path]) -> None:
    root, plan = planned
    before, aside = contents(root), root.parent / "set-aside"
    assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 0
    assert sorted(contents(root)) == ["a/2.png", "labels.csv"]
    assert (root / "labels.csv").read_bytes() == b"file,age,note\r\na/2.png,2,\r\n"
    assert (aside / "a/1.png").read_bytes() == b"a/1.png" and (aside / "b/3.png").is_file()
    assert prepare_command.main(["audit", str(root), "--undo", str(plan)]) == 0
    assert contents(root) == before and not aside.exists()


def test_labels_above_the_folder_are_kept_consistent(planned: tuple[Path, Path]) -> None:
    root, plan = planned
    (root / "labels.csv").unlink()
    (root.parent / "labels.csv").write_text("file,age\nset/a/1.png,1\nset/a/2.png,2\nother/a/1.png,9\n")
    assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 0
    assert (root.parent / "labels.csv").read_text() == "file,age\nset/a/2.png,2\nother/a/1.png,9\n"


@pytest.mark.parametrize("verb", ["--apply", "--undo"])
def test_killed_at_any_step_the_same_command_completes(planned: tuple[Path, Path], verb: str, monkeypatch: Any) -> None:
    root, plan = planned
    words = ["audit", str(root), verb, str(plan)]
    full = contents(root)
    assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 0
    applied = contents(root)
    assert prepare_command.main(["audit", str(root), "--undo", str(plan)]) == 0
    renames = 0
    for step in range(20):
        if verb == "--undo":
            assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 0
        calls = iter(range(100))

        def tick(
            work: Callable[..., Any], *given: Any, calls: Iterator[int] = calls, step: int = step, **named: Any
        ) -> Any:
            if next(calls) == step:
                raise KeyboardInterrupt
            return work(*given, **named)

        with monkeypatch.context() as patch:
            for name in ("_move", "write_atomically", "_clear"):
                patch.setattr(moves, name, partial(tick, getattr(moves, name)))
            code = prepare_command.main(words)
        if code == 0:
            break
        renames += 1
        assert code == 130 and prepare_command.main(words) == 0
        assert contents(root) == (applied if verb == "--apply" else full)
        if verb == "--apply":
            assert prepare_command.main(["audit", str(root), "--undo", str(plan)]) == 0
            assert contents(root) == full
    assert renames >= 5


def test_what_is_unsafe_is_refused_by_name_and_nothing_moves(
    planned: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, plan = planned
    text = plan.read_text()
    (root.parent / "out.png").write_bytes(b"out")
    (root / "link.png").symlink_to(root.parent / "out.png")
    (root / "way").symlink_to(root.parent)
    mark = hashlib.sha256(b"out").hexdigest()
    before = contents(root)
    for line, cause in (
        (f"move,../out.png,,{mark}", "../out.png: leaves the folder"),
        (f"move,{root.parent}/out.png,,{mark}", "out.png: leaves the folder"),
        (f"move,link.png,,{mark}", "link.png: is a link, or in a linked folder"),
        (f"move,way/out.png,,{mark}", "way/out.png: is a link, or in a linked folder"),
        ("move,labels.csv,,0", "labels.csv: has no picture's file name"),
        ("move,b/gone.png,,0", "b/gone.png: is missing"),
        ("move,a/2.png,,0", "a/2.png: has changed since"),
        ("move,a/2.png,,", "a/2.png: has no sha256 in the plan"),
        ('move,"a/\n2.png",,0', "'a/\\n2.png': is missing"),
        ("move,a/1.png,,0", "a/1.png is listed twice"),
        ("delete,a/2.png,,0", "line 5: action delete; must be move or keep"),
    ):
        plan.write_text(text + line + "\n")
        assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 2
        said = capsys.readouterr().err
        assert cause in said and said.count("\n") == 1
        assert contents(root) == before
    plan.write_text(text.partition("\n")[0] + "\n")  # nothing is left to do
    assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 0
    assert contents(root) == before
    plan.write_text(text)
    assert prepare_command.main(["audit", str(root), "--undo", str(plan)]) == 2
    assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 0
    assert prepare_command.main(["audit", str(root), "--apply", str(plan)]) == 2
    (root / "labels.csv").write_text("file,age\n")
    capsys.readouterr()
    assert prepare_command.main(["audit", str(root), "--undo", str(plan)]) == 2
    assert "labels.csv has changed since" in capsys.readouterr().err
    assert (root.parent / "set-aside/a/1.png").is_file()
    with pytest.raises(UserError, match=r"^--fix and --undo: must not both be given"):
        parse_prepare(["audit", str(root), "--fix", "--undo", str(plan)])


def test_a_plan_is_written_to_be_edited(faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(faulty, tmp_path / "results", "--fix") == 0
    said = capsys.readouterr().out.splitlines()
    moved = next(line for line in said if line.startswith("The plan moves pictures with: "))
    left = next(line for line in said if line.startswith("It leaves to you those with only: "))
    assert moved.split(": ")[1].startswith("blurred (1), broken file (1), copy in another split (")
    # grey, too, is one that is blurred; of the two pictures of a person one is a copy
    assert left == "It leaves to you those with only: person in two splits (1)."
    assert f"<p>plan.csv: {moved} {left}</p>" in (tmp_path / "results/audit-001/index.html").read_text()
    with (tmp_path / "results/audit-001/plan.csv").open() as f:
        lines = {Path(line["file"]).name: line for line in csv.DictReader(f)}
    assert lines["broken.jpg"]["action"] == "move" and lines["noise.png"]["action"] == "move"
    assert lines["44_1_0_mine+ann+a.png"]["action"] == "keep"  # another file is the copy of it
    assert "copy in another split (of train/" in lines["62_1_0_mine+ann+b.png"]["findings"]
