"""A prepared folder: what is in it, that it is whole after an interruption, and that trainings read it."""

import csv
import errno
import html
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_face
from PIL import Image
from skimage.data import astronaut

import prepare as prepare_command
from cyclegan_age.attributes import attributes_by_name
from cyclegan_age.config import PREPARE_SETS, PrepareConfig, UserError
from cyclegan_age.data.prepare import SETS, run
from cyclegan_age.data.prepare.copies import near_copies, perceptual_hash
from cyclegan_age.data.prepare.plan import identical, plan, split
from cyclegan_age.data.prepare.rows import Row, table
from cyclegan_age.faces.alignment import Place, crop
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.frames import FRAMES
from options.prepare import parse_prepare


def labels(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open() as f:
        return list(csv.DictReader(f))


def pictures(folder: Path) -> list[str]:
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in files if name.count("/") == 2)


@pytest.fixture
def fgnet(tmp_path: Path) -> Path:
    """Ten persons with four ages each, sorted by person."""
    for person in range(1, 11):
        folder = tmp_path / "fgnet" / f"{person:03d}"
        folder.mkdir(parents=True)
        for years in (2, 14, 33, 57):
            draw_face(years, size=40, seed=person).save(folder / f"{person:03d}A{years:02d}.JPG", "JPEG")
    return tmp_path / "fgnet"


def run_it(*words: str | Path) -> int:
    return prepare_command.main([str(word) for word in (*words, "--workers", "0")])


def test_the_sets_on_offer_have_readers() -> None:
    assert {*SETS, "csv", "pattern"} == set(PREPARE_SETS)


def test_a_set_becomes_age_folders_with_labels(fgnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fgnet / "003" / "003A20.JPG").write_bytes(b"\xff\xd8 cut off")
    out = tmp_path / "out"
    assert run_it("fgnet", "--source", fgnet, "--output", out, "--no_align", "--test", "0.2", "--val", "0.1") == 0
    found = labels(out)
    assert [line["file"] for line in found] == pictures(out) and len(found) == 40
    one = next(line for line in found if "007A33" in line["file"])
    assert one["file"].endswith("/30-34/33_9_9_fgnet+007+007A33.jpg")
    assert (one["age"], one["sex"], one["race"], one["person"], one["fold"]) == ("33", "9", "9", "007", "007")
    assert one["split"] == one["file"].split("/")[0] and one["source"] == "fgnet" and one["exact"] == "1"
    assert attributes_by_name(Path(one["file"]).name).person == "007"
    by_person = {
        line["person"]: {other["split"] for other in found if other["person"] == line["person"]} for line in found
    }
    assert all(len(splits) == 1 for splits in by_person.values())
    assert sorted(splits.pop() for splits in by_person.values()) == ["test"] * 2 + ["train"] * 7 + ["val"]
    assert (out / "left_out.csv").read_text().splitlines()[1].startswith(str(fgnet / "003" / "003A20.JPG,"))
    said = capsys.readouterr().out
    assert (
        "left out: 1 picture: not a picture, such as 003A20.JPG" in said
        and "40 pictures: 28 train, 4 val, 8 test" in said
    )
    assert (out / one["file"]).read_bytes() == (fgnet / "007" / "007A33.JPG").read_bytes()


def test_an_interrupted_run_resumes(fgnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "out", run.make
    made: list[str] = []

    def stopping(output: Path, frame: str, size: int, item: run.Item) -> dict[str, object]:
        if len(made) == 7:
            raise KeyboardInterrupt
        made.append(item.file)
        return real(output, frame, size, item)

    words = ("fgnet", "--source", fgnet, "--output", out, "--no_align")
    monkeypatch.setattr(run, "make", stopping)
    assert run_it(*words) == 130
    with (out / run.JOURNAL).open("a") as f:
        f.write('{"file": "tr')  # cut off in the middle of a line
    assert not (out / "labels.csv").exists()
    (out / made[3]).unlink()  # lost since
    made_before = made.copy()

    def counting(output: Path, frame: str, size: int, item: run.Item) -> dict[str, object]:
        made.append(item.file)
        return real(output, frame, size, item)

    monkeypatch.setattr(run, "make", counting)
    assert run_it(*words) == 0
    again = made[len(made_before) :]
    assert len(again) == 40 - 7 + 1 and made_before[3] in again and not {*again} & {*made_before[:3], *made_before[4:]}
    whole = tmp_path / "whole"
    assert run_it("fgnet", "--source", fgnet, "--output", whole, "--no_align") == 0
    assert pictures(out) == pictures(whole) and (out / "labels.csv").read_bytes() == (whole / "labels.csv").read_bytes()
    made.clear()
    assert run_it(*words) == 0 and made == []


def test_other_settings_need_another_folder(fgnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_it("fgnet", "--source", fgnet, "--output", out, "--no_align") == 0
    assert run_it("fgnet", "--source", fgnet, "--output", out, "--no_align", "--seed", "1") == 2
    assert run_it("fgnet", "--source", fgnet, "--output", fgnet / "out") == 2
    assert run_it("fgnet", "--source", fgnet, "--output", fgnet.parent) == 2
    assert run_it("utkface", "--source", fgnet, "--output", tmp_path / "other") == 2
    assert run_it("fgnet", "--source", tmp_path / "none", "--output", tmp_path / "other") == 2
    said = capsys.readouterr().err
    for part in (
        "was made with another --seed; use that",
        "must be outside of --source",
        "must be a new or empty folder, or one made by prepare.py",
        "no valid picture of utkface in it",
        "no such folder; expected the set as downloaded and unpacked",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "SET: required; expected one of utkface, agfw, .*pattern, or audit, label or shards"),
        (["fgnt", "--source", "a", "--output", "b"], "SET fgnt: must be one of utkface"),
        (["fgnet", "--output", "b"], "--source: required; expected"),
        (["fgnet", "--source", "a"], "--output: required; expected"),
        (["csv", "--source", "a", "--output", "b"], "--csv: must be given with the set csv"),
        (
            ["fgnet", "--source", "a", "--output", "b", "--pattern", "{age}"],
            "--pattern: must be used with the set",
        ),
        (
            ["fgnet", "--source", "a", "--output", "b", "--val", "0.6", "--test", "0.4"],
            "--val 0.6: must be below 1",
        ),
        (["fgnet", "--source", "a", "--output", "b", "--frame", "tight"], "--frame tight: must be utkface, ffhq"),
    ],
)
def test_wrong_flags_are_one_line(words: list[str], error: str) -> None:
    with pytest.raises(UserError, match="^" + error.replace("{", r"\{")):
        parse_prepare(words)


def test_splits_depend_on_the_seed_and_keep_what_is_given() -> None:
    rows = [Row(Path(f"{i}.jpg"), age=20, person=f"p{i // 4}") for i in range(400)]
    first, again, other = split(rows, 0, 0.05, 0.1), split(rows, 0, 0.05, 0.1), split(rows, 1, 0.05, 0.1)
    assert first == again and first != other
    sizes = {name: sum(row.split == name for row in first) for name in ("train", "val", "test")}
    assert sizes == {"train": 340, "val": 20, "test": 40}
    given = [Row(Path(f"{i}.jpg"), age=20, split="val" if i < 5 else "") for i in range(20)]
    kept = split(given, 0, 0.0, 0.2)
    assert [row.split for row in kept[:5]] == ["val"] * 5
    assert sum(row.split == "test" for row in kept) == 3 and sum(row.split == "val" for row in kept) == 5
    nobody = [Row(Path(f"set/{i}/face.jpg"), age=20) for i in range(40)]
    assert sum(row.split == "test" for row in split(nobody, 0, 0.0, 0.25)) == 10
    alone = split([Row(Path("a.jpg"), age=20, person="x"), Row(Path("b.jpg"), age=30, person="x")], 0, 0.4, 0.5)
    assert {row.split for row in alone} == {"train"}  # nobody else is left to train on


def test_a_table_may_have_any_file_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('file,age\n"new\nline.jpg",30\nb\x85.jpg,40\n', encoding="utf-8")
    lines = table(tmp_path / "t.csv", ["file", "age"])
    assert lines == [{"file": "new\nline.jpg", "age": "30"}, {"file": "b\x85.jpg", "age": "40"}]


def test_the_same_file_twice_is_not_parted(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i % 50 + 1}_0_0_{i}.jpg").write_bytes(bytes([i // 2]) * 9)
        (tmp_path / f"{i % 50 + 1}_1_0_{i}.jpg").write_bytes(bytes([i]) * (20 + i))
    twins = identical(sorted(tmp_path.iterdir()))
    assert len(twins) == 100 and len(set(twins.values())) == 50
    items = plan(SETS["utkface"].read(tmp_path), PrepareConfig(set="utkface", source=tmp_path, test=0.3, val=0.2))
    splits = {int(item.row.file.stem.split("_")[3]): item.row.split for item in items if item.row.sex == 0}
    assert all(splits[i] == splits[i + 1] for i in range(0, 100, 2)) and {*splits.values()} == {"train", "val", "test"}


def test_a_fold_is_tested_on_alone(fgnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fgnet", "--source", fgnet, "--output", tmp_path / "out", "--no_align", "--val", "0")
    assert run_it(*words, "--fold", "011") == 2
    assert "--fold 011: fgnet has no such fold; its folds are 001, 002" in capsys.readouterr().err
    assert run_it(*words, "--fold", "004") == 0
    splits = {(line["person"] == "004", line["split"]) for line in labels(tmp_path / "out")}
    assert splits == {(True, "test"), (False, "train")}


def test_names_stay_apart_and_plain(tmp_path: Path) -> None:
    rows = [
        Row(tmp_path / "train" / "1.jpg", age=24.5, group="20-29", sex=1, race=2, split="train"),
        Row(tmp_path / "val" / "1.jpg", age=64.5, group="60+", split="val"),
        Row(tmp_path / "a b_c+é.JPG", age=3, person="Ann Müller_1", split="train"),
        Row(tmp_path / "A-b-c-é.jpg", age=3, person="Ann Müller_1", split="train"),
    ]
    files = [item.file for item in plan(rows, PrepareConfig(set="fairface", source=tmp_path))]
    assert files == [
        "train/00-04/3_9_9_fairface+Ann-Müller-1+A-b-c-é.webp",
        "train/00-04/3_9_9_fairface+Ann-Müller-1+a-b-c-é-2.webp",
        "train/20-29/24_1_2_fairface+train-1.webp",
        "val/60+/64_9_9_fairface+val-1.webp",
    ]


@pytest.mark.parametrize("frame", ["utkface", "ffhq"])
def test_faces_are_found_and_aligned(tmp_path: Path, frame: str) -> None:
    source, out = tmp_path / "utk", tmp_path / "out"
    source.mkdir()
    photo = Image.fromarray(astronaut())
    photo.save(source / "44_1_0_20170101.jpg")
    pair = Image.new("RGB", (1024, 512))
    pair.paste(photo, (0, 0))
    pair.paste(photo, (512, 0))
    pair.save(source / "45_1_0_20170102.jpg")
    Image.fromarray(np.full((200, 200, 3), 127, np.uint8)).save(source / "46_1_0_20170103.jpg")
    assert run_it("utkface", "--source", source, "--output", out, "--frame", frame, "--size", "100") == 0
    assert pictures(out) == ["train/40-44/44_1_0_utkface+20170101.webp"]
    lines = [json.loads(line) for line in (out / run.JOURNAL).read_text().splitlines()[1:]]
    assert sorted(line["reason"] for line in lines) == ["", "no face found", "several faces"]
    made = np.asarray(Image.open(out / pictures(out)[0]).convert("RGB"))
    assert made.shape == (100, 100, 3)
    (face,) = detector().find(made)
    assert np.abs(face.landmarks / 100 - FRAMES[frame].template).max() < 0.06


def test_the_card_of_a_set_of_groups_without_persons(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    for years in (20, 30, 40):
        draw_face(years, size=40, seed=years).save(source / f"{years}.png")
    (source / "t.csv").write_text("path,age\n20.png,20-29\n30.png,30-39\n40.png,40\n")
    words = ("csv", "--source", source, "--csv", source / "t.csv", "--output", tmp_path / "out", "--no_align")
    assert run_it(*words, "--columns", "path", "age") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Splits are by picture, as persons are not known (--val" in card
    assert "Exact ages: 1. Estimates, or middles of groups: 2." in card


def test_a_picture_that_is_aligned_already_stays_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = astronaut()
    place = detector().find(photo)[0].place(FRAMES["utkface"])
    for name, shift, side in (("near", 0.04, 1.06), ("far", 0.0, 0.6)):
        folder = tmp_path / name
        folder.mkdir()
        there = Place(place.corner + place.edge * (shift + (1 - side) / 2 * (1 + 1j)), place.edge * side)
        square = crop(photo, there, 120)
        Image.fromarray(square).save(folder / "44_1_0_20170101.png")
        assert run_it("utkface", "--source", folder, "--output", tmp_path / f"{name}-out") == 0
        said, (made,) = capsys.readouterr().out, pictures(tmp_path / f"{name}-out")
        written = np.asarray(Image.open(tmp_path / f"{name}-out" / made).convert("RGB")).astype(int)
        kept = written.shape == square.shape and float(np.abs(written - square).mean()) < 4  # coded as WebP
        assert kept == (name == "near")
        assert ("Aligned already, and not turned or cut: 1 of 1 picture." in said) == (name == "near")
        assert ("Edges repeated, as the frame is wider than the picture: 1 of 1 picture;" in said) == (name == "far")


def varied(name: str, picture: Image.Image) -> Image.Image:
    if name == "jpeg":
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=50)
        return Image.open(io.BytesIO(data.getvalue()))
    return {"half": picture.resize((60, 60)), "grey": picture.convert("L"), "same": picture}[name]


def hash_of(picture: Image.Image) -> str:
    return perceptual_hash(np.asarray(picture.convert("L")))


def test_copies_are_found_and_other_faces_are_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 9, 9, 3), dtype=np.uint8)
    people = [Image.fromarray(one).resize((120, 120), Image.Resampling.BICUBIC) for one in noise]
    copies = [varied(name, people[3]) for name in ("jpeg", "half", "grey", "same")] + [varied("half", people[7])]
    assert near_copies([hash_of(one) for one in (*people, *copies)]) == [[3, 20, 21, 22, 23], [7, 24]]
    assert near_copies([]) == [] and near_copies([hash_of(people[0])]) == []


def test_near_copies_are_those_of_at_most_15_bits() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 256, dtype=np.uint8)
    for bits, found in ((0, True), (15, True), (16, False)):
        for _ in range(20):
            other = first.copy()
            other[rng.choice(256, bits, replace=False)] ^= 1
            hashes = [np.packbits(one).tobytes().hex() for one in (first, other)]
            assert bool(near_copies(hashes)) == found


def test_real_faces_are_no_copies_of_each_other(faces: Path) -> None:
    files = sorted((faces / "train").rglob("*.jpg"))[::60]
    hashes = []
    for file in files:
        with Image.open(file) as picture:
            hashes.append(hash_of(picture))
    assert sum(map(len, near_copies(hashes))) <= len(files) // 50


def test_the_card_says_what_is_there(fgnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fgnet / "001" / "001A40.JPG").write_bytes((fgnet / "001" / "001A02.JPG").read_bytes())  # a copy of other age
    (fgnet / "notes.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert run_it("fgnet", "--source", fgnet, "--output", out, "--no_align") == 0
    card, page = (out / "README.md").read_text(), (out / "index.html").read_text()
    for part in (
        "# FG-NET, prepared",
        "41 pictures, unchanged. Splits are by person (--val 0.05 --test 0.1 --seed 0).",
        "| 00-04 | ",
        "All ages are exact.",
        "| unknown | 41 |",
        "10 persons: 4 pictures each (median), at most 5.",
        "Shorter side: median 40 px",
        "of which in two splits: 0, with ages more than a year apart: 1; copies.csv lists them.",
        "| a file name of another form | 1 | notes.jpg |",
        "Lanitis, Taylor, Cootes",
    ):
        assert part in card and (part.startswith(("#", "|")) or part in html.unescape(page)), part
    assert page.count("<svg") == 6 and "<script" not in page and "http" not in page
    copies = (out / "copies.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in copies if "001A02" in line or "001A40" in line] == ["1", "1"]


def test_persons_in_two_of_the_sets_own_splits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    table = ["path,age,sex,race,person,split"]
    for i in range(4):
        draw_face(20 + i, size=40, seed=i).save(source / f"{i}.png")
        table.append(f"{i}.png,{20 + i},f,Asian,ann,{'test' if i == 3 else 'train'}")
    (tmp_path / "mine.csv").write_text("\n".join(table))
    columns = ["path", "age", "sex", "race", "person", "split"]
    words = ("csv", "--source", source, "--output", tmp_path / "out", "--csv", tmp_path / "mine.csv", "--no_align")
    assert run_it(*words, "--columns", *columns) == 0
    assert "In two of the set's own splits: 1 persons, such as ann." in capsys.readouterr().out
    assert pictures(tmp_path / "out")[0] == "test/20-24/23_1_2_csv+ann+3.png"


def test_lines_outside_of_the_source_are_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine/a/1.png", "mine/2.png", "mine/3.png", "secret/4.png", "mine-too/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw_face(30, size=40, seed=len(name)).save(tmp_path / name)
    named = ["a/1.png", "a/../2.png", tmp_path / "mine/3.png", "../secret/4.png", tmp_path / "secret/4.png"]
    named += ["a/../../mine-too/5.png", "/nowhere/6.png", f"{'7' * 300}.png"]
    (tmp_path / "t.csv").write_text("\n".join(["file,age", *(f"{name},30" for name in named)]))
    monkeypatch.chdir(tmp_path)  # with a source that is not absolute
    assert (
        run_it("csv", "--source", "mine", "--output", "out", "--csv", "t.csv", "--no_align", "--columns", "file", "age")
        == 0
    )
    assert [Path(line["file"]).name.rpartition("+")[2] for line in labels(tmp_path / "out")] == [
        "1.png",
        "2.png",
        "3.png",
    ]
    assert "left out: 4 pictures: outside of --source, such as 4.png" in capsys.readouterr().out
    with (tmp_path / "out" / "left_out.csv").open() as f:
        lost = [(Path(line["file"]).name, line["reason"]) for line in csv.DictReader(f)]
    assert lost == [(f"{n}.png", "outside of --source") for n in (4, 4, 5, 6)] + [(f"{'7' * 300}.png", "file missing")]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EROFS, "cannot be written (Read-only file system); grant permission, or choose another folder"),
        (errno.EACCES, "cannot be written (Permission denied); grant permission, or choose another folder"),
        (errno.ENOSPC, "disk full (No space left on device); free space, or choose another folder"),
    ],
)
@pytest.mark.parametrize("verb", ["prepare", "shards", "label", "audit"])
def test_a_write_error_is_distinguished_from_a_full_disk(
    verb: str,
    number: int,
    said: str,
    fgnet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, real = tmp_path / "locked", Path.open
    words: dict[str, tuple[str | Path, ...]] = {
        "prepare": ("fgnet", "--source", fgnet, "--output", out, "--no_align", "--workers", "0"),
        "shards": ("shards", tmp_path / "done", "--output", out),
        "label": ("label", fgnet, "--output", out, "--workers", "0"),
        "audit": ("audit", fgnet, "--results_dir", out, "--workers", "0"),
    }
    if verb == "shards":
        assert run_it("fgnet", "--source", fgnet, "--output", tmp_path / "done", "--no_align") == 0

    def refusing(self: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
        if out in self.parents and mode != "r":
            raise OSError(number, os.strerror(number), str(self))
        return real(self, mode, *args, **named)

    monkeypatch.setattr(Path, "open", refusing)
    capsys.readouterr()
    assert prepare_command.main([str(word) for word in words[verb]]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    flag = {"label": "", "audit": "--results_dir "}.get(verb, "--output ")
    assert error == f"{flag}{out}: {said.replace('another folder', 'another --output') if verb == 'label' else said}"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(fgnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    assert run_it("fgnet", "--source", fgnet, "--output", tmp_path / "locked" / "out", "--no_align") == 2
    error = f"--output {tmp_path / 'locked' / 'out'}: cannot be written (Permission denied); grant permission"
    assert capsys.readouterr().err.splitlines()[-1].startswith(error)


def test_names_that_are_no_text_or_very_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "cacd"
    source.mkdir()
    for name in (b"30_Ann\xff_0001.jpg", "31_Ann_0001.jpg", f"32_Bo_{'漢' * 70}_0001.jpg", "33_A\nb_0001.jpg"):
        draw_face(30, size=40, seed=len(name)).save(source / os.fsdecode(name))
    (source / os.fsdecode(b"0\xff.jpg")).write_bytes(b"broken")
    assert run_it("cacd", "--source", source, "--output", tmp_path / "out", "--no_align", "--test", "0.3") == 0
    found = labels(tmp_path / "out")
    assert sorted(line["person"] for line in found)[:3] == ["A\nb", "Ann", "Ann\\udcff"]
    assert sorted(line["file"] for line in found) == pictures(tmp_path / "out") and len(found) == 4
    assert max(len(Path(line["file"]).name.encode()) for line in found) < 200
    assert "left out: 1 picture: a file name of another form, such as 0\\udcff.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[1]\n", "\ufffd\udcff\n", "\0\0\n", ""])
def test_a_broken_journal_restarts(content: str, fgnet: Path, tmp_path: Path) -> None:
    words = ("fgnet", "--source", fgnet, "--output", tmp_path / "out", "--no_align")
    assert run_it(*words) == 0
    before = pictures(tmp_path / "out")
    (tmp_path / "out" / run.JOURNAL).write_bytes(content.encode(errors="surrogateescape"))
    assert run_it(*words) == 0 and pictures(tmp_path / "out") == before
