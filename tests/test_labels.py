"""Where the ages of a training come from: labels.csv, names, folders; and what it says of them."""

import logging
import shlex
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from conftest import draw_face

import evaluate as evaluate_command
import prepare as prepare_command
import train as train_command
from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import FaceAttributes, form_of, labels_in_name
from cyclegan_age.config import EvaluateConfig, UserError
from cyclegan_age.data.folders import describe, scan
from cyclegan_age.data.identities import scan_people
from cyclegan_age.data.labels import PARQUET, as_parquet, read_labels, read_lines
from cyclegan_age.evaluation import faces as evaluation_faces
from cyclegan_age.evaluation.faces import Faces


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("stem", "form", "age", "person"),
    [
        ("25_0_2_20170104", "utkface", 25, ""),
        ("25_0_2_morph2+009055+1M54", "utkface", 25, "009055"),
        ("1_0_0_20161219140623097", "utkface", 1, ""),
        ("14_Aaron_Johnson_0001", "cacd", 14, "Aaron_Johnson"),
        ("24_50_Cent_0004", "cacd", 24, "50_Cent"),
        ("24_2Chainz_0004", "cacd", 24, "2Chainz"),
        ("24_1_0_x_0004", "utkface", 24, ""),
        ("0_MariaCallas_35_f", "agedb", 35, "MariaCallas"),
        ("001A08", "fgnet", 8, "001"),
        ("001A43b", "fgnet", 43, "001"),
        ("00000A02", "all_age_faces", 2, ""),
        ("009055_1M54", "morph2", 54, "009055"),
        ("nm0000003_rm1_1950-1-6_2005", "imdb_wiki", 55, "nm0000003"),
        ("10000217_1981-11-05_2009", "imdb_wiki", 27, "10000217"),
    ],
)
def test_names_contain_ages(stem: str, form: str, age: float, person: str) -> None:
    assert form_of(stem) == form
    attributes = labels_in_name(form, stem)
    assert attributes and (attributes.age_years, attributes.person) == (age, person)


@pytest.mark.parametrize(
    "stem",
    [
        "0001",
        "20170104",
        "23_anna",
        "IMG_2019",
        "12_Holiday_2019",
        "DSC00023",
        "A12",
        "1_2",
        "24_12_0004",
        "24_1_20170116_0004",
    ],
)
def test_other_names_contain_none(stem: str) -> None:
    assert form_of(stem) == ""


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (["{who:03d}/{who:03d}A{age:02d}.JPG"], "fgnet"),
        (["{who:03d}/{who:03d}A{age:02d}.JPG", "readme/x.jpg"], "fgnet"),
        (["{who}/{age}_0_0_2017010{who}.jpg"], "utkface"),
        (["{who}/{who:06d}_1M{age:02d}.JPG"], "morph2"),
    ],
)
def test_person_numbers_are_no_ages(tmp_path: Path, names: list[str], form: str) -> None:
    for who in range(1, 83):
        touch(tmp_path, *(name.format(who=who, age=(who * 7 + 30) % 60) for name in names))
    with pytest.raises(UserError, match=f"the folders mean no ages: .*python prepare.py {form} --source"):
        scan(tmp_path, AgeCode(), every_group=False)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("{age}_0_2_201701041{i}.jpg.chip.jpg", "utkface"),
        ("{age}_Aaron_Johnson_000{i}.jpg", "cacd"),
        ("00905{i}_1M{age}.JPG", "morph2"),
        ("{i}_MariaCallas_{age}_f.jpg", "agedb"),
        ("001A{age}.JPG", "fgnet"),
        ("0000{i}A{age}.jpg", "all_age_faces"),
        ("17/1000021{i}_1951-05-05_2009.jpg", "imdb_wiki"),
        ("landmark_aligned_face.217{i}.9523333835_c7887c3fde_o.jpg", "adience"),
        ("100003415@N08/coarse_tilt_aligned_face.217{i}.9523333835_c7887c3fde_o.jpg", "adience"),
    ],
)
def test_flat_folders_are_led_on(tmp_path: Path, name: str, line: str) -> None:
    touch(tmp_path, *(name.format(age=20 + i, i=i) for i in range(5)))
    with pytest.raises(UserError, match=f"python prepare.py {line} --source {tmp_path} --output FOLDER"):
        scan(tmp_path, AgeCode())


@pytest.mark.parametrize(
    ("table", "line"),
    [("fold_0_data.txt", "adience"), ("fairface_label_train.csv", "fairface"), ("imdb.mat", "imdb_wiki")],
)
def test_folders_with_a_known_table_are_led_on(tmp_path: Path, table: str, line: str) -> None:
    touch(tmp_path, table, "faces/a.jpg", "faces/b.jpg")
    with pytest.raises(UserError, match=f"no age folders found; make age folders of them: python prepare.py {line} "):
        scan(tmp_path, AgeCode())


def test_names_hold_where_few_folders_contradict_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *(f"{low}-{low + 9}/{low + i}_0_0_{i}.jpg" for low in range(10, 70, 10) for i in range(3)))
    touch(tmp_path, "60-69/12_1_0_wrong.jpg")
    with caplog.at_level(logging.WARNING, "cyclegan_age"):
        faces = scan(tmp_path, AgeCode())
    assert faces.age_years[[p.name == "12_1_0_wrong.jpg" for p in faces.paths]] == [12]
    (said,) = [r.getMessage() for r in caplog.records]
    assert "1 picture in folders of other ages than in their names, such as 60-69/12_1_0_wrong.jpg" in said


@pytest.mark.parametrize("below", ["", "males/"])
def test_lats_masks_and_tests_are_not_trained_on(tmp_path: Path, below: str) -> None:
    groups = ("0-2", "3-6", "7-9", "15-19", "30-39", "50-69")
    touch(
        tmp_path,
        *(
            f"{below}{kind}{g}/{sub}{i}.png"
            for kind in ("train", "test")
            for g in groups
            for i in range(2)
            for sub in ("", "parsings/")
        ),
    )
    faces = scan(tmp_path, AgeCode((1, 5, 8, 17, 35, 60)))
    assert len(faces.paths) == 12 and all("train" in p.parent.name for p in faces.paths)
    assert faces.left_out == {"in folders for testing": 12}
    assert set(faces.age_years.tolist()) == {1, 4.5, 8, 17, 34.5, 59.5}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """`train` of a prepared folder, whose labels say other things than names and folders."""
    root = tmp_path / "prepared"
    lines = ["file,age,sex,race,person,split,source,fold,exact"]
    for low in range(5, 70, 5):
        for i in range(2):
            name = f"train/{low:02d}-{low + 4:02d}/{low}_9_9_mine+{i}.jpg"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            draw_face(low, size=40, seed=i).save(root / name)
            lines.append(f"{name},{low + 2.5},{i},{2 if i else 9},p{i},train,mine,,1")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root / "train"


@pytest.mark.parametrize("where", ["train", ".", "absolute"])
def test_labels_give_exact_ages_sexes_and_persons(prepared: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "train":
        monkeypatch.chdir(prepared.parent)
        dataroot = Path("train")
    elif where == ".":
        monkeypatch.chdir(prepared)
        dataroot = Path()
    else:
        dataroot = prepared
    faces = scan(dataroot, AgeCode())
    assert faces.age_years[0] == 7.5 and set(faces.age_years % 5) == {2.5}
    assert [attributes.sex for attributes in faces.attributes] == [0, 1] * 13
    assert np.isnan(faces.attributes[0].race) and faces.attributes[1].race == 2
    people = read_labels(dataroot)
    assert {attributes.person for attributes in people.values()} == {"p0", "p1"}


def test_persons_come_from_labels(prepared: Path) -> None:
    file = prepared.parent / "labels.csv"
    lines = file.read_text().splitlines()
    named = [line.replace(",p0,", f",{i % 5},").replace(",p1,", f",{i % 5},") for i, line in enumerate(lines)]
    file.write_text("\n".join(named))
    people = scan_people(prepared)
    assert people.person.max() == 4 and people.age_years.min() == 7.5 and people.left_out == {}


def test_evaluations_read_labels(prepared: Path) -> None:
    faces = Faces.find(EvaluateConfig(dataroot=prepared))
    assert set(faces.age_years % 5) == {2.5}
    assert faces.sex[:2] == ["male", "female"] and faces.race[:2] == ["", "Asian"]
    assert faces.attributes(1) == FaceAttributes(7.5, 1.0)


def test_estimated_ages_are_reported_where_enough_are_recorded(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = prepared.parent / "labels.csv"
    lines = file.read_text().splitlines()
    number = lines[0].split(",").index("exact")
    estimated = [",".join([*(cells := line.split(","))[:number], "0", *cells[number + 1 :]]) for line in lines[1:4]]
    file.write_text("\n".join([lines[0], *estimated, *lines[4:]]))
    faces = Faces.find(EvaluateConfig(dataroot=prepared))
    assert len(faces.exact) == len(faces.paths)
    monkeypatch.setattr(evaluation_faces, "_FEWEST_EXACT", 5)
    faces = Faces.find(EvaluateConfig(dataroot=prepared))
    assert len(faces.exact) == len(faces.paths) - 3


def test_labels_without_an_age_are_one_line(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = prepared.parent / "labels.csv"
    file.write_text(file.read_text().replace(",7.5,", ",young,", 1))
    assert evaluate_command.main(["--dataroot", str(prepared)]) == 2
    assert capsys.readouterr().err == f"{file}: line 2: no age in years; correct it, or remove the file\n"


@pytest.mark.parametrize("table", ["name,years\nx,1\n", "file;age\nx;1\n", ""])
def test_a_table_of_another_kind_is_not_read(prepared: Path, table: str, caplog: pytest.LogCaptureFixture) -> None:
    file = prepared.parent / "labels.csv"
    file.write_text(table)
    assert read_labels(prepared) == {}
    assert caplog.messages == [f"{file}: ignored, as it has no columns file and age (separated by commas)"]


def test_lines_that_name_no_file_and_ages_that_contradict_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_face(20, size=40, seed=1).save(tmp_path / "a.png")
    file = tmp_path / "labels.csv"
    file.write_text(f"file,age\na.png,20\n../{tmp_path.name}/a.png,30\nb\\a.png,30\n")
    assert [attributes.age_years for attributes in read_labels(tmp_path).values()] == [30, 30]
    assert caplog.messages == [
        rf"{file}: 1 of its files are not in {tmp_path}, such as {tmp_path}/b\a.png",
        f"{file}: the last of several ages counts for 1 files, such as {tmp_path}/a.png",
    ]
    file.write_bytes("file,age\né.png,20\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"labels\.csv: not in UTF-8; save it so"):
        read_labels(tmp_path)


def test_a_training_begins_with_what_it_understood(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--dataroot", prepared, "--results_dir", tmp_path / "r", "--epochs", "0", "--image_size", "32"]
    flags += ["--load_size", "32", "--model", "age_estimator", "--monitor", "none", "--no_compile"]
    with caplog.at_level(logging.INFO, "cyclegan_age"):
        assert train_command.main([str(flag) for flag in flags]) == 0
    said = [r.getMessage() for r in caplog.records if ": group " in r.getMessage()]
    assert len(said) == 6
    assert said[1] == (
        f"{prepared}: group 20, 15 to below 25 years: 4 pictures, as 20-24/20_9_9_mine+0.jpg of 22.5 years"
    )


def test_a_group_without_pictures_is_described_as_such(tmp_path: Path) -> None:
    touch(tmp_path, "20-29/a.jpg")
    code = AgeCode()
    lines = describe(scan(tmp_path, code, every_group=False), code)
    assert (
        lines[0] == "group 10, 5 to below 15 years: 0 pictures"
        and "1 picture, as 20-29/a.jpg of 24.5 years" in lines[1]
    )
    touch(tmp_path, "1/b.jpg")
    code = AgeCode((1, 5, 24))
    assert describe(scan(tmp_path, code, every_group=False), code)[0] == (
        "group 1, 0 to below 3 years: 1 picture, as 1/b.jpg of 1 year"
    )
    code = AgeCode((0, 20), "onehot", (18, 120))
    assert [line.partition(":")[0] for line in describe(scan(tmp_path, code), code)] == [
        "group 0, 0 to below 19 years",
        "group 20, 20 to below 121 years",
    ]


@pytest.mark.parametrize("form", ["linear", "onehot"])
def test_ages_that_work_are_offered(tmp_path: Path, form: Literal["linear", "onehot"]) -> None:
    touch(tmp_path, *(f"{group}/a.jpg" for group in ("0-2", "3-6", "7-9", "15-19", "30-39", "50-69")))
    with pytest.raises(UserError, match=r"choose other --ages, such as --ages 1 4 8 17 34 59$"):
        scan(tmp_path, AgeCode(form=form))
    assert len(scan(tmp_path, AgeCode((1, 4, 8, 17, 34, 59), form)).paths) == 6
    many = tmp_path / "many"
    touch(many, *(f"{years}/{years}_0_0_a.jpg" for years in range(5, 37)))
    with pytest.raises(UserError, match=r"the age 45 .*; choose other --ages, such as --ages 10 20 30$"):
        scan(many, AgeCode((10, 20, 30, 45), form))


def test_flat_folders_of_unknown_names_are_led_on(tmp_path: Path) -> None:
    folder = tmp_path / "it's mine"
    touch(folder, "a.jpg", "b.jpg")
    with pytest.raises(UserError) as error:
        scan(folder, AgeCode())
    for part in (
        "prepare.py csv makes them from a table",
        "prepare.py pattern from ages in file names",
        "python prepare.py label ",
    ):
        assert part in str(error.value)
    assert shlex.split(str(error.value).rpartition("label ")[2]) == [str(folder)]
    for years in (20, 21):
        (folder / f"{years}_0_0_2017.jpg").touch()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).unlink()
    with pytest.raises(UserError) as error:
        scan(folder, AgeCode())
    line = shlex.split(str(error.value).partition("make age folders of them: ")[2])
    assert line == ["python", "prepare.py", "utkface", "--source", str(folder), "--output", "FOLDER"]


def test_labels_are_written_and_read_as_parquet(prepared: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: requirements-parquet.txt")
    folder = prepared.parent
    attributes = read_labels(prepared)
    (folder / PARQUET).write_bytes(as_parquet(read_lines(folder)))
    (folder / "labels.csv").rename(folder / "kept.csv")
    assert attributes and repr(read_labels(prepared)) == repr(attributes)
    (folder / PARQUET).write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"labels\.parquet: not a valid table; correct it, or remove the file$"):
        read_labels(prepared)


def test_without_pyarrow_parquet_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ["utkface", "--source", str(tmp_path), "--output", str(tmp_path.parent / "out"), "--parquet"]
    assert prepare_command.main(words) == 2
    assert capsys.readouterr().err == "pyarrow: not installed; run python -m pip install pyarrow\n"
