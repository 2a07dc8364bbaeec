"""Every public set as it is downloaded, in small: what its reader finds, and what it leaves out and why."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import prepare as prepare_command
from cyclegan_age.config import PrepareConfig, UserError
from cyclegan_age.data.prepare import SETS
from cyclegan_age.data.prepare.names import read_pattern
from cyclegan_age.data.prepare.rows import Row, years_of
from cyclegan_age.data.prepare.run import read_rows
from cyclegan_age.data.prepare.tables import read_csv

LABELS = ("age", "sex", "race", "person", "split", "fold", "exact")
Found = dict[str, tuple[Any, ...]]


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".txt", ".csv", ".pts", ".mat", ".json")):
            (root / name).touch()
        else:
            Image.new("RGB", (8, 8)).save(root / name, "JPEG")
    return root


def used(rows: list[Row], root: Path, *fields: str) -> Found:
    """Path below the folder -> the fields asked for, of the rows that are used."""
    good = [row for row in rows if not row.reason]
    return {row.file.relative_to(root).as_posix(): tuple(getattr(row, f) for f in fields) for row in good}


def read(name: str, source: Path, **flags: Any) -> list[Row]:
    """What a set's reader finds, after the command itself made `labels.csv` of it with just these labels."""
    config = PrepareConfig(set=name, source=source, **flags)
    rows = read_rows(config)
    out = source.with_name(f"{source.name}-{len(list(source.parent.glob(f'{source.name}-*')))}")
    words = [name, "--source", source, "--output", out, "--no_align", "--workers", "0", "--val", "0", "--test", "0"]
    for flag, value in flags.items():
        words += [f"--{flag}", *([value] if isinstance(value, str | Path) else value)]
    assert prepare_command.main([str(word) for word in words]) == 0
    with (out / "labels.csv").open() as f:
        lines = [[line[column] for column in LABELS] for line in csv.DictReader(f)]
    wanted = [
        [
            f"{row.age:g}",
            str(row.sex),
            str(row.race),
            row.person,
            row.split or "train",
            row.fold,
            str(int(not (row.group or row.estimated))),
        ]
        for row in rows
        if not row.reason
    ]
    assert sorted(lines) == sorted(wanted)
    return rows


def reasons(rows: list[Row]) -> dict[str, int]:
    return dict(Counter(row.reason for row in rows if row.reason))


def test_utkface(tmp_path: Path) -> None:
    make(
        tmp_path,
        "UTKFace/25_0_2_20170104165305160.jpg.chip.jpg",
        "UTKFace/1_1_4_20161219140623097.jpg.chip.jpg",
        "UTKFace/61_1_20170109142408075.jpg.chip.jpg",  # without a race, as three of the set are
        "UTKFace/.DS_Store.jpg",
        "crop_part1/25_0_2_20170104165305160.jpg.chip.jpg",  # as Kaggle packs it
        "part1/25_0_2_20170104165305160.jpg",  # in the wild
        "part3/110_0_0_20170105174847679.JPG",
        "part3/120_0_0_20170105174847679.jpg",
        "part3/holiday.jpg",
    )
    rows = read("utkface", tmp_path)
    assert used(rows, tmp_path, "age", "sex", "race") == {
        "UTKFace/25_0_2_20170104165305160.jpg.chip.jpg": (25, 0, 2),
        "UTKFace/1_1_4_20161219140623097.jpg.chip.jpg": (1, 1, 4),
        "UTKFace/61_1_20170109142408075.jpg.chip.jpg": (61, 1, 9),
        "part3/110_0_0_20170105174847679.JPG": (110, 0, 0),
    }
    assert reasons(rows) == {
        "another copy of the same picture": 2,
        "an age that cannot be": 1,
        "not named as this set names pictures": 1,
    }


@pytest.mark.parametrize("folder", ["FGNET/images/{name}", "{person}/{name}"])
def test_fgnet_flat_or_by_person(tmp_path: Path, folder: str) -> None:
    names = ["001A02.JPG", "001A43a.JPG", "001A43b.JPG", "082a18.jpg"]
    make(tmp_path, *(folder.format(name=name, person=name[:3]) for name in names), "FGNET/points/001a02.pts")
    rows = read("fgnet", tmp_path)
    found = {Path(k).name: v for k, v in used(rows, tmp_path, "age", "person", "fold", "sex").items()}
    assert found == {
        "001A02.JPG": (2, "001", "001", 9),
        "001A43a.JPG": (43, "001", "001", 9),
        "001A43b.JPG": (43, "001", "001", 9),
        "082a18.jpg": (18, "082", "082", 9),
    }
    assert reasons(rows) == {}


def test_morph2(tmp_path: Path) -> None:
    make(tmp_path, "Album2/009055_1M54.JPG", "Album2/09055_0F20.jpg", "Album2/009055_2M00.JPG", "Album2/x.JPG")
    (tmp_path / "morph_2008_nonCommercial.csv").write_text(
        "id_num,picture_num,dob,doa,race,gender,facial_hair,age,age_diff,glasses,photo\n"
        "009055,1,01/30/1949,10/01/2003,B,M,,54,,,Album2/009055_1M54.JPG\n"
    )
    rows = read("morph2", tmp_path)
    assert used(rows, tmp_path, "age", "sex", "race", "person") == {
        "Album2/009055_1M54.JPG": (54, 0, 1, "009055"),
        "Album2/09055_0F20.jpg": (20, 1, 9, "09055"),
    }
    assert reasons(rows) == {"an age that cannot be": 1, "not named as this set names pictures": 1}


def test_agedb_persons_are_names(tmp_path: Path) -> None:
    make(tmp_path, "AgeDB/0_MariaCallas_35_f.jpg", "AgeDB/7_MariaCallas_40_f.jpg", "AgeDB/1000_A_101_m.jpg")
    make(tmp_path, "AgeDB/5_B_0_m.jpg")
    rows = read("agedb", tmp_path)
    assert used(rows, tmp_path, "age", "sex", "person") == {
        "AgeDB/0_MariaCallas_35_f.jpg": (35, 1, "MariaCallas"),
        "AgeDB/7_MariaCallas_40_f.jpg": (40, 1, "MariaCallas"),
        "AgeDB/1000_A_101_m.jpg": (101, 0, "A"),
    }
    assert reasons(rows) == {"an age that cannot be": 1}


def test_all_age_faces(tmp_path: Path) -> None:
    for folder in ("original images", "aglined faces"):  # spelt like this
        make(tmp_path, f"{folder}/00000A02.jpg", f"{folder}/07380A41.jpg", f"{folder}/07381A80.jpg")
    make(tmp_path, "image sets/train.txt", "image sets/val.txt")
    (tmp_path / "image sets/train.txt").write_text("00000A02.jpg 0\n07381A80.jpg 1\n")
    (tmp_path / "image sets/val.txt").write_text("07380A41.jpg 0\n")
    rows = read("all_age_faces", tmp_path)
    assert used(rows, tmp_path, "age", "sex", "split") == {
        "original images/00000A02.jpg": (2, 1, "train"),
        "original images/07380A41.jpg": (41, 1, "val"),
        "original images/07381A80.jpg": (80, 0, "train"),
    }
    assert reasons(rows) == {"another copy of the same picture": 3}


def cacd(root: Path) -> Path:
    return make(root, "CACD2000/14_Aaron_Johnson_0001.jpg", "CACD2000/53_Robin_Williams_0010.jpg", "vs/0000_0.jpg")


def test_cacd_by_name(tmp_path: Path) -> None:
    rows = read("cacd", cacd(tmp_path))
    assert used(rows, tmp_path, "age", "person", "sex") == {
        "CACD2000/14_Aaron_Johnson_0001.jpg": (14, "Aaron_Johnson", 9),
        "CACD2000/53_Robin_Williams_0010.jpg": (53, "Robin_Williams", 9),
    }
    assert reasons(rows) == {"no age known": 1}  # CACD-VS


def test_cacd_by_mat(tmp_path: Path) -> None:
    names = ["14_Aaron_Johnson_0001.jpg", "53_Robin_Williams_0010.jpg", "60_Gone_Away_0001.jpg"]
    cells = np.array([[np.array([name])] for name in names], dtype=object)
    data = {"age": np.array([[14], [54], [60]]), "identity": np.array([[1], [2], [3]]), "name": cells}
    (tmp_path / "celebrity2000.mat").write_bytes(b"MATLAB 7.3 MAT-file")  # not looked at
    savemat(cacd(tmp_path) / "celebrity2000_meta.mat", {"celebrityImageData": data})
    rows = read("cacd", tmp_path)
    assert [row.age for row in rows if not row.reason] == [14, 54]
    assert reasons(rows) == {"no age known": 1, "file missing": 1}


def datenum(year: int, month: int, day: int) -> float:
    import datetime

    return datetime.date(year, month, day).toordinal() + 366.0


def test_imdb_wiki_by_mat(tmp_path: Path) -> None:
    cases = [
        # path, born, taken, gender, score, second
        ("01/nm0000001_rm124825600_1899-5-10_1968.jpg", datenum(1899, 5, 10), 1968, 1, 3.5, np.nan),
        ("02/nm0000002_rm1_1924-9-16_1974.jpg", datenum(1924, 9, 16), 1974, 0, 2.0, np.nan),
        ("02/nm0000002_rm2_1924-9-16_1975.jpg", datenum(1924, 9, 16), 1975, np.nan, 2.0, 2.5),
        ("02/nm0000002_rm3_1924-9-16_1976.jpg", datenum(1924, 9, 16), 1976, 0, -np.inf, np.nan),
        ("02/nm0000002_rm4_1924-9-16_1920.jpg", datenum(1924, 9, 16), 1920, 0, 2.0, np.nan),  # before birth
        ("02/nm0000002_rm5_0-0-0_1920.jpg", 47.0, 1920, 0, 2.0, np.nan),  # no date
        ("02/nm0000002_rm6_1600-1-1_1990.jpg", datenum(1600, 1, 1), 1990, 0, 2.0, np.nan),
        ("03/nm0000003_rm1_1950-1-6_2005.jpg", datenum(1950, 1, 6), 2005, 0, 2.0, np.nan),  # not there
    ]
    root = tmp_path / "imdb_crop"
    make(root, *(case[0] for case in cases[:-1]), "04/nm1_rm1_1950-1-6_2005.jpg")
    path = np.empty((1, len(cases)), dtype=object)
    for i, case in enumerate(cases):
        path[0, i] = np.array([case[0]])
    keys = ("dob", "photo_taken", "gender", "face_score", "second_face_score")
    columns = {key: np.array([[case[k + 1] for case in cases]], float) for k, key in enumerate(keys)}
    savemat(root / "imdb.mat", {"imdb": {**columns, "full_path": path}})
    rows = read("imdb_wiki", tmp_path)
    assert used(rows, root, "age", "sex", "person") == {
        "01/nm0000001_rm124825600_1899-5-10_1968.jpg": (69, 0, "nm0000001"),
        "02/nm0000002_rm1_1924-9-16_1974.jpg": (49, 1, "nm0000002"),  # born after the middle of the year
    }
    assert reasons(rows) == {
        "several faces": 1,
        "no face found": 1,
        "an age that cannot be": 2,
        "no age known": 1,
        "file missing": 1,
        "not in the set's own table": 1,
    }


def test_imdb_wiki_by_name(tmp_path: Path) -> None:
    make(tmp_path, "17/10000217_1981-05-05_2009.jpg", "17/2_1950-1-6_2005.jpg", "17/3_2005-01-06_1950.jpg", "17/x.jpg")
    rows = read("imdb_wiki", tmp_path)
    assert used(rows, tmp_path, "age", "person") == {
        "17/10000217_1981-05-05_2009.jpg": (28, "10000217"),
        "17/2_1950-1-6_2005.jpg": (55, "2"),
    }
    assert reasons(rows) == {"an age that cannot be": 1, "not named as this set names pictures": 1}


def test_a_mat_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    (cacd(tmp_path) / "celebrity2000.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\0" * 400)
    with pytest.raises(UserError, match=r"celebrity2000.mat: a mat file of version 7.3; save it as version 5"):
        SETS["cacd"].read(tmp_path)
    (tmp_path / "celebrity2000.mat").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="not a readable mat file"):
        SETS["cacd"].read(tmp_path)


@pytest.mark.parametrize(("folder", "before"), [("faces", "coarse_tilt_"), ("aligned", "landmark_")])
def test_adience(tmp_path: Path, folder: str, before: str) -> None:
    face = f"{folder}/{{}}@N03/{before}aligned_face.{{}}.{{}}_o.jpg"
    make(tmp_path, face.format(30601258, 1, "10_a"), face.format(30601258, 2, "11_b"), face.format(7, 5, "12_c"))
    make(tmp_path, face.format(7, 6, "13_d"), face.format(9, 9, "99_z"))
    head = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\tfiducial_yaw_angle\tfiducial_score\n"
    for fold, lines in enumerate(
        [
            "30601258@N03\t10_a_o.jpg\t1\t(25, 32)\tf\t0\t0\t9\t9\t-5\t0\t1\n"
            "30601258@N03\t11_b_o.jpg\t2\t35\tm\t0\t0\t9\t9\t-5\t0\t1\n",
            "7@N03\t12_c_o.jpg\t5\t(60, 100)\tu\t0\t0\t9\t9\t0\t0\t1\n"
            "7@N03\t13_d_o.jpg\t6\tNone\tm\t0\t0\t9\t9\t0\t0\t1\n"
            "7@N03\t14_e_o.jpg\t7\t(4, 6)\tm\t0\t0\t9\t9\t0\t0\t1\n",
        ]
    ):
        (tmp_path / f"fold_{fold}_data.txt").write_text(head + lines)
    rows = read("adience", tmp_path)
    assert list(used(rows, tmp_path, "age", "group", "sex", "person", "fold").values()) == [
        (28.5, "25-32", 1, "30601258@N03", "0"),
        (35, "", 0, "30601258@N03", "0"),
        (64.5, "60+", 9, "7@N03", "1"),
    ]
    assert reasons(rows) == {"no age known": 1, "file missing": 1, "not in the set's own table": 1}


def test_adience_whose_pictures_lie_in_one_folder(tmp_path: Path) -> None:
    make(tmp_path, "landmark_aligned_face.1.10_a_o.jpg", "landmark_aligned_face.2.11_b_o.jpg")
    head = "user_id\toriginal_image\tface_id\tage\tgender\n"
    (tmp_path / "fold_0_data.txt").write_text(f"{head}3@N03\t10_a_o.jpg\t1\t(25, 32)\tf\n4@N03\t11_b_o.jpg\t2\t35\tm\n")
    rows = read("adience", tmp_path)
    assert list(used(rows, tmp_path, "age", "person").values()) == [(28.5, "3@N03"), (35, "4@N03")]


def test_fairface_groups_that_a_spreadsheet_broke(tmp_path: Path) -> None:
    make(tmp_path, *(f"train/{i}.jpg" for i in (1, 2, 3)), "val/1.jpg", "val/2.jpg")
    head = "file,age,gender,race,service_test\n"
    (tmp_path / "fairface_label_train.csv").write_text(
        f"{head}train/1.jpg,50-59,Male,East Asian,True\ntrain/2.jpg,03-Sep,Female,Middle Eastern,False\n"
        "train/3.jpg,Oct-19,Female,Latino_Hispanic,False\n"
    )
    (tmp_path / "fairface_label_val.csv").write_text(
        f"{head}val/1.jpg,more than 70,Male,Black,True\nval/2.jpg,0-2,Female,Indian,True\nval/9.jpg,0-2,Male,White,1\n"
    )
    rows = read("fairface", tmp_path)
    assert used(rows, tmp_path, "age", "group", "sex", "race", "split") == {
        "train/1.jpg": (54.5, "50-59", 0, 2, "train"),
        "train/2.jpg": (6, "3-9", 1, 4, "train"),
        "train/3.jpg": (14.5, "10-19", 1, 4, "train"),
        "val/1.jpg": (74.5, "70+", 0, 1, "val"),
        "val/2.jpg": (1, "0-2", 1, 3, "val"),
    }
    assert reasons(rows) == {"file missing": 1}


def test_ffhq_aging_by_csv(tmp_path: Path) -> None:
    make(tmp_path, "images1024x1024/00000/00000.png", "thumbnails128x128/00000/00000.png")
    make(tmp_path, "images1024x1024/69000/69007.png", "ffhq_aging256x256/00000/parsings/00000.png")
    (tmp_path / "ffhq_aging_labels.csv").write_text(
        "image_number,age_group,age_group_confidence,gender,gender_confidence,head_pitch\n"
        "0,0-2,0.9,male,1.0,-1\n69007,70-120,0.9,female,1.0,3\n12,30-39,0.9,female,1.0,3\n"
    )
    rows = read("ffhq_aging", tmp_path)
    assert used(rows, tmp_path, "age", "group", "sex", "split") == {
        "images1024x1024/00000/00000.png": (1, "0-2", 0, "train"),
        "images1024x1024/69000/69007.png": (74.5, "70+", 1, "test"),
    }
    assert reasons(rows) == {"another copy of the same picture": 1, "file missing": 1}


def test_ffhq_aging_by_json(tmp_path: Path) -> None:
    make(tmp_path, *(f"images/{i:05d}.png" for i in range(3)))
    (tmp_path / "json").mkdir()
    face = {"faceAttributes": {"age": 26.0, "gender": "female"}}
    for number, faces in enumerate([[face], [face, face], []]):
        (tmp_path / "json" / f"{number:05d}.json").write_text(json.dumps(faces))
    rows = read("ffhq_aging", tmp_path)
    assert used(rows, tmp_path, "age", "group", "sex", "estimated") == {"images/00000.png": (26, "", 1, True)}
    assert reasons(rows) == {"no age known": 2}


def test_appa_real(tmp_path: Path) -> None:
    make(tmp_path, "train/000000.jpg", "train/000000.jpg_face.jpg", "train/000000.jpg.mat", "test/006613.jpg")
    make(tmp_path, "valid/004113.jpg_face.jpg", "valid/004113.jpg")
    head = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n"
    (tmp_path / "gt_avg_train.csv").write_text(f"{head}000000.jpg,36,5.05555555555556,1.01,4\n")
    (tmp_path / "gt_avg_valid.csv").write_text(f"{head}004113.jpg,36,33,1.01,31\n004114.jpg,36,33,1.01,31\n")
    (tmp_path / "gt_avg_test.csv").write_text(f"{head}006613.jpg,36,33,1.01,-1\n")
    (tmp_path / "allcategories_train.csv").write_text(
        "file,gender,race,happiness,makeup\n000000.jpg,male,asian,happy,no\n"
    )
    rows = read("appa_real", tmp_path)
    assert used(rows, tmp_path, "age", "sex", "race", "split") == {
        "train/000000.jpg_face.jpg": (4, 0, 2, "train"),
        "valid/004113.jpg_face.jpg": (31, 9, 9, "val"),
    }
    assert reasons(rows) == {"file missing": 1, "an age that cannot be": 1}


def test_lats_masks_are_no_faces(tmp_path: Path) -> None:
    make(tmp_path, "males/train30-39/00012.png", "males/train30-39/parsings/00012.png", "females/test0-2/00001.png")
    make(tmp_path, "males/train0-2/parsings/00001.png", "sheet.png")
    rows = read("lats", tmp_path)
    assert used(rows, tmp_path, "age", "group", "sex", "split") == {
        "males/train30-39/00012.png": (34.5, "30-39", 0, "train"),
        "females/test0-2/00001.png": (1, "00-02", 1, "test"),
    }
    assert reasons(rows) == {"no age known": 1}


def test_agfw(tmp_path: Path) -> None:
    make(tmp_path, "cropped/128/male/age_15_19/a.jpg", "cropped/256/male/age_15_19/a.jpg", "v2/female/age_60+/b.png")
    make(tmp_path, "all/20-24/c.jpg", "all/readme/d.jpg")
    rows = read("agfw", tmp_path)
    assert used(rows, tmp_path, "age", "group", "sex") == {
        "cropped/128/male/age_15_19/a.jpg": (17, "15-19", 0),
        "v2/female/age_60+/b.png": (64.5, "60+", 1),
        "all/20-24/c.jpg": (22, "20-24", 9),
    }
    assert reasons(rows) == {"another copy of the same picture": 1, "no age known": 1}


def test_csv_of_ones_own(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/2.JPG", "b/3.jpg", "4.jpg", "a/6.jpg")
    table = tmp_path / "mine.csv"
    table.write_text(
        "Path,years,gender,id,exact\na/1.jpg,31,M,x,1\n2.jpg,20-29,female,y,0\nb/3.jpg,-1,m,x,1\n4.jpg,120,f,z,1\n"
        "5.jpg,9,f,z,1\na/6.jpg,40,f,z,0\n",
        encoding="utf-8-sig",
    )
    rows = read("csv", tmp_path, csv=table, columns=("path", "years", "gender", "-", "id"))
    assert used(rows, tmp_path, "age", "group", "sex", "person", "estimated") == {
        "a/1.jpg": (31, "", 0, "x", False),
        "a/2.JPG": (24.5, "20-29", 1, "y", True),
        "a/6.jpg": (40, "", 1, "z", True),
    }
    assert reasons(rows) == {"an age that cannot be": 2, "file missing": 1}
    wrong = "has no column age, but path, years, gender, id, exact; name those for .*, as --columns path age sex$"
    with pytest.raises(UserError, match=wrong):
        read_csv(tmp_path, table, ("path", "age"))
    with pytest.raises(UserError, match="--columns path: must be names of"):
        read_csv(tmp_path, table, ("path",))


def test_one_age_and_empty_lines_for_a_file_are_that_age(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    table = tmp_path / "mine.csv"
    table.write_text("file,age\na.jpg,31\na.jpg,\nb.jpg,\nb.jpg,40\nc.jpg,20\nc.jpg,30\nc.jpg,20\nd.jpg,\nd.jpg,-1\n")
    rows = read_csv(tmp_path, table, ("file", "age"))
    assert {row.file.name: row.age for row in rows if not row.reason} == {"a.jpg": 31, "b.jpg": 40}
    assert reasons(rows) == {"two ages for one file": 1, "an age that cannot be": 1}


def test_pattern(tmp_path: Path) -> None:
    make(tmp_path, "ann A_b/A12.jpg", "bob/x.jpg", "c7A30.jpg")
    rows = read("pattern", tmp_path, pattern="{person}A{age}")
    assert used(rows, tmp_path, "age", "person") == {"c7A30.jpg": (30, "c7")}
    rows = read("pattern", tmp_path, pattern="{person}/{any}A{age}")
    assert used(rows, tmp_path, "age", "person") == {"ann A_b/A12.jpg": (12, "ann A_b")}
    for wrong in ("{person}", "{age}{age}", "{age}_{size}"):
        with pytest.raises(UserError, match=r"--pattern .*: must have \{age\}"):
            read_pattern(tmp_path, wrong)


@pytest.mark.parametrize("name", ["adience", "fairface", "ffhq_aging", "appa_real"])
def test_a_folder_without_the_table_is_one_line(tmp_path: Path, name: str) -> None:
    make(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"--source .*: no .* in it; give the folder as it was downloaded"):
        SETS[name].read(tmp_path)


@pytest.mark.parametrize(
    ("word", "years"),
    [
        ("25", (25, "")),
        ("25.0", (25, "")),
        ("-1", (-1, "")),
        ("(0, 2)", (1, "0-2")),
        ("70-120", (74.5, "70+")),
        ("60+", (64.5, "60+")),
        ("03-Sep", (6, "3-9")),
    ],
)
def test_ages_as_tables_write_them(word: str, years: tuple[float, str]) -> None:
    assert years_of(word) == years
    assert np.isnan(years_of("None")[0]) and np.isnan(years_of("")[0])
