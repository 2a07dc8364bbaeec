"""WebDataset shards: what is written, what trainings draw of them, and how those of a web server are fetched."""

import functools
import gc
import io
import json
import logging
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_face
from test_data import same

import prepare as prepare_command
import test as test_command
import train as train_command
from cyclegan_age.ages import AgeCode
from cyclegan_age.config import EvaluateConfig, UserError
from cyclegan_age.data import fetching
from cyclegan_age.data.batches import prefetching
from cyclegan_age.data.draws import Draws
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.data.fetching import Fetched
from cyclegan_age.data.folders import describe, scan
from cyclegan_age.data.shard_index import expanded, index_of
from cyclegan_age.data.shards import ShardPictures, Shards, is_shards, open_pictures, open_shards
from cyclegan_age.data.windows import Windows
from cyclegan_age.evaluation import faces as evaluation_faces
from cyclegan_age.evaluation.run import evaluate
from options.evaluate import parse_evaluate

CODE = AgeCode((10, 20, 30, 40, 50, 60))
TINY = (
    "--ngf 4 --ndf 4 --blocks 3 --image_size 32 --load_size 36 --batch_size 4 --lambda_age 0 --no_compile "
    "--precision fp32 --monitor none --log_every 2 --sample_every 100 --epochs 0.3 --name tiny"
)


@pytest.fixture(scope="module")
def packed(tiny_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 drawn faces in five shards. Not to be changed."""
    folder = tmp_path_factory.mktemp("packed") / "shards"
    assert prepare_command.main(["shards", str(tiny_faces), "--output", str(folder), "--per_shard", "10"]) == 0
    return folder


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "shards"))


def spec(folder: Path) -> Path:
    return folder / "all-{000..004}.tar"


def data_of(dataroot: Path, *, cache_gb: float = 50, batch_size: int = 4, paired: bool = False) -> FaceData:
    faces = scan(dataroot, CODE, cache_gb=cache_gb)
    pools = [np.flatnonzero(faces.group == k) for k in range(len(CODE))]
    draws = Draws(
        cache=open_pictures(faces.paths, faces.root, 36),
        age_years=faces.age_years,
        source_pools=pools,
        target_pools=pools,
        image_size=32,
        flip=True,
        batch_size=batch_size,
        seed=1,
        paired=paired,
    )
    return FaceData(draws)


# What is written


def test_a_shard_has_pictures_labels_and_an_index(packed: Path, tiny_faces: Path) -> None:
    files = sorted(packed.glob("*.tar"))
    assert [file.name for file in files] == [f"all-{k:03d}.tar" for k in range(5)]
    names = []
    for file in files:
        with tarfile.open(file) as tar:
            members = tar.getmembers()
            for picture, labels in zip(members[::2], members[1::2], strict=True):
                assert picture.name.removesuffix(".jpg") == labels.name.removesuffix(".json")
                told = json.loads(tar.extractfile(labels).read())  # type: ignore[union-attr]
                original = tiny_faces / told["file"]
                assert tar.extractfile(picture).read() == original.read_bytes()  # type: ignore[union-attr]
                assert (told["age"], told["sex"]) == tuple(map(int, original.name.split("_")[:2]))
                names.append(picture.name)
        assert index_of(file) == file.with_suffix(".csv").read_bytes()  # what is made where there is none
    assert len(set(names)) == len(names) == 44
    ages = [sorted(open_shards(file).age_years) for file in files]
    assert all(abs(len(some) - 9) <= 1 and abs(np.mean(some) - 36.5) < 5 for some in ages)


def test_prepared_sets_are_packed_by_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for person in range(1, 7):
        (tmp_path / "fgnet").mkdir(exist_ok=True)
        for years in (2, 33):
            draw_face(years, size=40, seed=person).save(tmp_path / "fgnet" / f"{person:03d}A{years:02d}.JPG", "JPEG")
    words = f"fgnet --source {tmp_path / 'fgnet'} --output {tmp_path / 'out'} --no_align --test 0.3 --val 0 --workers 0"
    assert prepare_command.main([*words.split(), "--shards", "3"]) == 0
    shards = tmp_path / "out" / "shards"
    assert f"8 pictures: --dataroot '{shards / 'train-{000..002}.tar'}'" in capsys.readouterr().out
    found = open_shards(shards / "test-{000..001}.tar")
    assert len(found) == 4 and set(found.age_years) == {2, 33}
    assert {found.persons[i] for i in found.person} == {
        line.split("_")[-1].split("+")[1] for line in map(str, (tmp_path / "out" / "test").rglob("*.jpg"))
    }
    assert np.isnan(found.sex).all()
    assert prepare_command.main([*words.split(), "--shards", "3"]) == 0  # nothing is made twice
    assert prepare_command.main([*words.split(), "--shards", "4"]) == 2
    assert "its shards are of another per_shard; use that" in capsys.readouterr().err


def test_whether_an_age_is_recorded_is_packed_and_read(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(file.relative_to(tiny_faces).as_posix() for file in tiny_faces.rglob("*.jpg"))
    estimated = set(files[::3])
    folder = Path(shutil.copytree(tiny_faces, tmp_path / "faces"))
    lines = [f"{file},{Path(file).name.split('_')[0]},{int(file not in estimated)}" for file in files]
    (folder / "labels.csv").write_text("\n".join(["file,age,exact", *lines]))
    packed = tmp_path / "shards"
    assert prepare_command.main(["shards", str(folder), "--output", str(packed), "--per_shard", "20"]) == 0

    def exact_of_shards() -> tuple[int, int]:
        attributes = scan(packed / "all-{000..002}.tar", CODE).attributes
        return len(attributes), sum(one.exact for one in attributes)

    for shard in packed.glob("*.tar"):
        with tarfile.open(shard) as tar:
            names = [name for name in tar.getnames() if name.endswith(".json")]
            told = [json.loads(tar.extractfile(name).read()) for name in names]  # type: ignore[union-attr]
        exact = open_shards(shard).exact
        assert [bool(one["exact"]) for one in told] == exact.tolist() == [one["file"] not in estimated for one in told]
    of_folder = [one.exact for one in scan(folder, CODE).attributes]
    assert exact_of_shards() == (len(files), len(files) - len(estimated)) == (len(of_folder), sum(of_folder))
    monkeypatch.setattr(evaluation_faces, "_FEWEST_EXACT", 5)  # calibrations are made on these alone
    scored = evaluation_faces.Faces.find(EvaluateConfig(dataroot=packed / "all-{000..002}.tar"))
    assert len(scored.paths) == len(files) and len(scored.exact) == len(files) - len(estimated)
    above = "".join(f"faces/{line}\n" for line in lines)  # `labels.csv` in the folder above
    (folder / "labels.csv").unlink()
    (tmp_path / "labels.csv").write_text(f"file,age,exact\n{above}")
    other = tmp_path / "other"
    assert prepare_command.main(["shards", str(folder), "--output", str(other), "--per_shard", "100"]) == 0
    assert open_shards(other / "all-000.tar").exact.sum() == len(files) - len(estimated)
    indices = {index: index.read_text().splitlines() for index in packed.glob("*.csv")}
    for index in indices:
        index.unlink()  # made anew from the labels beside the pictures
    assert exact_of_shards() == (len(files), len(files) - len(estimated))
    for index, rows in indices.items():  # as former versions wrote them
        index.write_text("".join(f"{row.rpartition(',')[0]}\n" for row in rows))
    assert exact_of_shards() == (len(files), len(files))


def test_an_interrupted_packing_resumes(packed: Path, copied: Path, tiny_faces: Path) -> None:
    before = (copied / "all-001.tar").stat().st_mtime_ns
    (copied / "all-002.csv").unlink()
    (copied / "all-003.csv").unlink()
    (copied / "all-003.tar").write_bytes(b"cut off")
    assert prepare_command.main(["shards", str(tiny_faces), "--output", str(copied), "--per_shard", "10"]) == 0
    assert (copied / "all-001.tar").stat().st_mtime_ns == before
    for file in packed.glob("all-*"):
        assert file.read_bytes() == (copied / file.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shards", "nowhere", "--output", "x"], "FOLDER nowhere: no such folder; expected a prepared one"),
        (["shards", "nowhere"], "--output: required; expected the folder to make"),
        (["shards", "--output", "x"], "FOLDER: required; expected a folder of faces"),
        (["shards", "x", "--output", "y", "--per_shard", "0"], "--per_shard 0: must be at least 1"),
    ],
)
def test_mistakes_are_reported(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_command.main(words) == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_folder_without_ages_is_named_as_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "faces" / "train").mkdir(parents=True)
    (tmp_path / "faces" / "labels.csv").write_text("name,years\n")
    assert prepare_command.main(["shards", str(tmp_path / "faces"), "--output", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"FOLDER {tmp_path / 'faces'}") and "--dataroot" not in said


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ("file,age,sex\n20-29/20_1_0_a.png,20,male\n", "line 2: sex 'male', which is no number (0 male, 1 female"),
        ("file,age\n20-29/20_1_0_a.png,nan\n", "line 2: no age in years; correct it"),
        ("file,age,split\n20-29/20_1_0_a.png,20,a/../../b\n", "split 'a/../../b' is unknown; must be train, val"),
    ],
)
def test_tables_that_cannot_be_packed_are_one_line(
    table: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faces" / "20-29").mkdir(parents=True)
    draw_face(20, size=40, seed=1).save(tmp_path / "faces" / "20-29" / "20_1_0_a.png")
    (tmp_path / "faces" / "labels.csv").write_text(table)
    assert prepare_command.main(["shards", str(tmp_path / "faces"), "--output", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert error in said and said.count("\n") == 1


def test_only_pictures_of_the_folder_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "faces").mkdir()
    for name in ("faces/a.png", "outside.png"):
        draw_face(20, size=40, seed=1).save(tmp_path / name)
    named = ["a.png,20,1.0,0.0", "a.png,20,1.0,0.0", "../outside.png,30,0,1", f"{tmp_path / 'outside.png'},30,0,1"]
    named += ["labels.csv,40,0,1", ",50,0,1", "gone.png,50,0,1"]
    (tmp_path / "faces" / "labels.csv").write_text("\n".join(["file,age,sex,exact", *named]))
    assert prepare_command.main(["shards", str(tmp_path / "faces"), "--output", str(tmp_path / "x")]) == 0
    found = open_shards(tmp_path / "x" / "all-000.tar")
    assert (len(found), found.age_years[0], found.sex[0], found.exact[0]) == (1, 20, 1, False)
    said = capsys.readouterr().out
    assert (
        said.count(": left out: outside of FOLDER") == 2 and said.count(": file name without a picture's suffix") == 2
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_package_reads_it(packed: Path) -> None:
    package = pytest.importorskip("webdataset", reason="webdataset is not installed")
    read = package.WebDataset(str(spec(packed)), shardshuffle=False).decode("pil").to_tuple("jpg", "json")
    found = list(read)
    assert len(found) == 44 and all(picture.size == (40, 40) and told["age"] for picture, told in found)
    gc.collect()  # of files that it leaves open


# What is read


def test_names_with_ranges() -> None:
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{0..1}/{1..2}") == ["0/1", "0/2", "1/1", "1/2"]
    assert expanded("one.tar") == ["one.tar"]
    with pytest.raises(UserError, match=r"--dataroot a\{3\.\.1\}: \{3\.\.1\} is descending; put the smaller number"):
        expanded("a{3..1}")
    with pytest.raises(UserError, match="more than 100,000 shards"):
        expanded("a{0..999999999999}")


def test_labels_are_those_of_the_folder(packed: Path, tiny_faces: Path) -> None:
    folder, shards = scan(tiny_faces, CODE), scan(spec(packed), CODE)
    assert is_shards(spec(packed)) and not is_shards(tiny_faces)
    assert Counter(shards.age_years.tolist()) == Counter(folder.age_years.tolist())
    assert Counter((k.age_years, k.sex, k.race) for k in shards.attributes) == Counter(
        (k.age_years, k.sex, k.race) for k in folder.attributes
    )
    assert [CODE.group(float(age)) for age in shards.age_years] == shards.group.tolist()
    assert describe(shards, CODE)[0].startswith("group 10, 5 to below 15 years: 4 pictures, as all-00")
    cache = open_pictures(shards.paths, shards.root, 40)
    with tarfile.open(packed / "all-000.tar") as tar:
        name = json.loads(tar.extractfile("000000003.json").read())["file"]  # type: ignore[union-attr]
    by_folder = open_pictures([tiny_faces / name], tiny_faces, 40)
    i = next(i for i, path in enumerate(shards.paths) if path.name == "000000003.jpg")
    assert np.array_equal(cache.get(i), by_folder.get(0))  # type: ignore[arg-type]


def test_shards_of_others_have_no_index(copied: Path, tmp_path: Path) -> None:
    for file in copied.glob("*.csv"):
        file.unlink()
    assert len(open_shards(spec(copied))) == 44 and not list(copied.glob("*.csv"))
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        for name, text in (("a/x.1.txt", "?"), ("a/x.json", '{"age": "31", "gender": "Female", "person": 7}')):
            (tmp_path / "file").write_text(text)
            tar.add(tmp_path / "file", name)
        for name in ("a/x.jpg", "25_1_2_20170104.jpg", "nobody.png", "broken.jpg"):
            draw_face(20, size=40, seed=0).save(tmp_path / "file", "JPEG")
            tar.add(tmp_path / "file", name)
        (tmp_path / "file").write_text("no json")
        tar.add(tmp_path / "file", "broken.json")
    faces = scan(tmp_path / "other.tar", CODE, every_group=False)
    assert faces.left_out == {"no age known": 2} and faces.age_years.tolist() == [31, 25]
    assert [(k.sex, k.person) for k in faces.attributes] == [(1, "7"), (1, "")]
    assert all(open_pictures(faces.paths, faces.root, 8).get(i) is not None for i in range(2))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("all-{000..009}.tar", r"all-005\.tar: no such shard; check the name, and quote the braces$"),
        ("packed.tar", r"packed\.tar: not an uncompressed tar file; decompress it, or make it again$"),
        (
            "bad.tar",
            r"bad\.csv: not the index of its shard, or the shard is truncated; copy the shard again",
        ),
    ],
)
def test_what_is_no_shard_is_reported(copied: Path, name: str, said: str) -> None:
    with tarfile.open(copied / "packed.tar", "w:gz") as tar:
        tar.add(copied / "all-000.csv", "x")
    (copied / "bad.tar").write_bytes((copied / "all-000.tar").read_bytes()[:9000])
    shutil.copy(copied / "all-000.csv", copied / "bad.csv")
    with pytest.raises(UserError, match=said):
        scan(copied / name, CODE)
    with pytest.raises(
        UserError, match=r"no age folders found; pass its shards, such as --dataroot '.*\{000..009\}\.tar'$"
    ):
        scan(copied, CODE)


def test_a_header_of_zeros_does_not_hide_the_rest_of_a_shard(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copied / "all-001.csv").unlink()
    shards = open_shards(copied / "all-000.tar")
    with (copied / "all-000.tar").open("r+b") as file:
        file.seek(shards.offset[2] - 512)
        file.write(b"\0" * 1024)
    assert caplog.messages == []
    (copied / "all-000.csv").unlink()
    assert len(open_shards(copied / "all-000.tar")) == 2
    assert caplog.messages[-1] == f"{copied / 'all-000.tar'}: corrupt after 4 files, the rest is left out: zeros"
    with tarfile.open(copied / "none.tar", "w"):
        pass


def test_names_outside_ascii_are_read(copied: Path) -> None:
    data = (copied / "all-000.tar").read_bytes()[512:]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(copied / "x.tar", "w", format=form) as tar:
            member = tarfile.TarInfo("é/25_1_0_é" + "ü" * 90 + ".jpg")
            member.size = 1000
            tar.addfile(member, io.BytesIO(data))
        (copied / "x.csv").unlink(missing_ok=True)
        assert open_shards(copied / "x.tar").read(0) == data[:1000]


def test_shards_without_pictures_are_one_line(copied: Path) -> None:
    with tarfile.open(copied / "none.tar", "w"):
        pass
    with pytest.raises(UserError, match=r"none\.tar: no pictures in them; expected NAME\.jpg beside "):
        scan(copied / "none.tar", CODE)


def test_broken_members_are_named_and_left_out(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = open_shards(spec(copied))
    first, second = (int(i) for i in np.flatnonzero(shards.shard == 2)[:2])
    with (copied / "all-002.tar").open("r+b") as file:
        file.seek(shards.offset[first])
        file.write(b"\0" * int(shards.size[first]))
        file.seek(shards.offset[second] - 512)
        file.write(b"other")
    cut = (copied / "all-004.tar").read_bytes()
    (copied / "all-004.csv").unlink()
    last = shards.offset[-1] + 10
    (copied / "all-004.tar").write_bytes(cut[:last])  # as a copy that was interrupted
    with caplog.at_level(logging.WARNING, "cyclegan_age"):
        faces = scan(spec(copied), CODE)
        cache = open_pictures(faces.paths, faces.root, 36)
        bad = [i for i in range(len(cache)) if cache.get(i) is None]
        kept = np.concatenate([indices for indices, _ in cache.pieces(np.arange(len(cache)))])
    assert faces.left_out == {"no age known": 1}  # of the last one the labels are gone
    assert len(cache) == 43 and len(bad) == 2 and set(kept) == set(range(43)) - set(bad)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"{copied / 'all-004.tar'}: corrupt after ")
    name = Path(str(faces.paths[bad[0]])).name
    assert f"all-002.tar/{name}: left out: not a picture" in said
    assert any(one.endswith("not at its position in the shard's index; delete the index to rebuild it") for one in said)
    assert len(said) == 3


def test_a_batch_depends_on_its_step_alone(packed: Path) -> None:
    data, whole = data_of(spec(packed)), data_of(spec(packed), batch_size=8)
    wanted = data.batch(7)
    assert wanted.x_source.shape == (4, 3, 32, 32)
    for step in (0, 20, 7):
        assert same(data.batch(step), wanted) == (step == 7)
    parts = [data.batch(7, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.x_source for part in parts]), whole.batch(7).x_source)
    ages = torch.cat([data.batch(step).age_source for step in range(12)])
    assert Counter(CODE.group(float(age)) for age in ages) == dict.fromkeys(range(6), 8)
    assert set(torch.unique(data.resident(torch.device("cpu")).batch(0)[1]).tolist()) <= set(ages.tolist())


@pytest.mark.parametrize(
    ("command", "words", "by"),
    [
        (train_command, "--model cyclegan_pair", "--model cyclegan_pair"),
        (train_command, "--model face_embedder", "--model face_embedder"),
        (train_command, "--model face_embedder --preset distil", "--teacher"),
        (train_command, "--model face_parser", "a face_parser"),
        (test_command, "", "test.py"),
    ],
)
def test_what_reads_no_shards_says_so(
    command: object, words: str, by: str, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataroot", str(spec(packed)), "--results_dir", str(tmp_path), *words.split()]
    assert command.main(given) == 2  # type: ignore[attr-defined]
    err = capsys.readouterr().err
    assert f"--dataroot {spec(packed)}: {by} does not read shards; expected a folder of pictures" in err


# Windows


def windows(pools: list[np.ndarray], shard_of: np.ndarray, count: int, length: int) -> Windows:  # type: ignore[type-arg]
    def random(*numbers: int) -> np.random.Generator:
        return np.random.default_rng([5, *numbers])

    shards = int(shard_of.max()) + 1
    return Windows(
        pools=pools,
        shard_of=shard_of.astype(np.int32),
        shards=shards,
        count=count,
        length=length,
        random=random,
        stream=0,
    )


@pytest.mark.parametrize("mixed", [True, False])
def test_windows_balance_the_ages_over_a_pass(mixed: bool) -> None:
    sizes = (700, 250, 50)
    pools = np.split(np.arange(1000), np.cumsum(sizes)[:-1])
    random = np.random.default_rng(0)
    shard_of = random.integers(0, 20, 1000) if mixed else np.arange(1000) // 50  # or sorted by age
    draws = windows(pools, shard_of, 5, 999)
    for turn in (0, 3):
        drawn = np.array([next(draws.candidates(n)) for n in range(turn * 999, turn * 999 + 999)])
        group = np.digitize(drawn, np.cumsum(sizes)[:-1])
        assert np.bincount(group).tolist() == [333] * 3
        assert np.bincount(drawn, minlength=1000)[950:].min() >= 6  # 333 draws of 50 pictures
        assert np.bincount(drawn, minlength=1000)[950:].max() <= 8
        assert np.bincount(drawn, minlength=1000)[:700].max() == 1
        seen = []
        for n in range(turn * 999, turn * 999 + 999):
            place = draws.place(n)
            assert shard_of[drawn[n - turn * 999]] in draws.shards(*place)
            if place not in seen:
                seen.append(place)
        assert seen == [(turn, k) for k in range(5)]
        assert sorted(np.concatenate([draws.shards(turn, k) for k in range(5)])) == list(range(20))
        if mixed:  # at every time
            parts = group[: 999 // 90 * 90].reshape(-1, 90)
            assert all(20 <= number <= 40 for part in parts for number in np.bincount(part, minlength=3))
    assert draws.shards(0, 5).tolist() == draws.shards(1, 0).tolist()
    assert draws.shards(0, 0).tolist() != draws.shards(1, 0).tolist()
    again = windows(pools, shard_of, 5, 999)
    assert [next(again.candidates(n)) for n in (5000, 3, 998, 999)] == [
        next(draws.candidates(n)) for n in (5000, 3, 998, 999)
    ]


def test_a_stand_in_is_of_the_same_group_and_window() -> None:
    pools = np.split(np.arange(60), 2)
    draws = windows(pools, np.arange(60) % 6, 3, 60)
    order = list(draws.candidates(17))
    members = {i for i in range(60) if i % 6 in draws.shards(*draws.place(17))}
    assert set(order) == members
    half = len([i for i in order if i // 30 == order[0] // 30])
    assert len({i // 30 for i in order[:half]}) == 1


# A web server


class Server(ThreadingHTTPServer):
    """Serves a folder, ranges too; breaks off each answer after `most` bytes, `failures` times."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.failures, self.most, self.asked = folder, 0, 3000, list[tuple[str, str]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name, wanted = self.path.rpartition("/")[2], self.headers.get("Range", "")
        self.server.asked.append((name, wanted))
        if not (self.server.folder / name).is_file():
            return self.send_error(404)
        data = (self.server.folder / name).read_bytes()
        mark = f'"{hash(data)}"'
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(data):
            return self.send_error(416)
        start *= self.headers.get("If-Range") in (None, mark)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", mark)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if name.endswith(".tar") and self.server.failures:
            self.server.failures -= 1
            end = start + self.server.most
        self.wfile.write(data[start:end])


@pytest.fixture
def server(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CYCLEGAN_AGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_PAUSE_SECONDS", 0.0)
    with Server(copied) as server:
        threading.Thread(target=functools.partial(server.serve_forever, 0.02), daemon=True).start()
        yield server
        server.shutdown()


def fetched(tmp_path: Path, limit: int = 10**9) -> Fetched:
    return Fetched(tmp_path / "cache" / "cyclegan_age" / "shards", limit)


def test_a_file_is_fetched_once_and_resumes_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    store, url = fetched(tmp_path), f"{server.url}/all-000.tar"
    server.failures = 2
    whole = (server.folder / "all-000.tar").read_bytes()
    assert store.path(url).read_bytes() == whole
    assert [wanted for _, wanted in server.asked] == ["", "bytes=3000-", "bytes=6000-"]
    assert store.path(url).read_bytes() == whole and len(server.asked) == 3
    # the same after an interruption, but for a file that changed meanwhile
    url = url.replace("000", "001")
    server.failures = 9
    with pytest.raises(
        UserError, match=rf"^--dataroot {url}: cannot be fetched: the connection ended too early; check"
    ):
        store.path(url)
    server.failures = 0
    (server.folder / "all-001.tar").write_bytes(whole)
    assert store.path(url).read_bytes() == whole
    assert server.asked[-1] == ("all-001.tar", "bytes=12000-")
    assert not list(store.folder.glob("*.part"))


def test_processes_that_want_the_same_file_fetch_it_once(server: Server, tmp_path: Path) -> None:
    results: list[Path] = []
    stores = [fetched(tmp_path) for _ in range(5)]
    threads = [
        threading.Thread(target=lambda one=one: results.append(one.path(f"{server.url}/all-000.tar"))) for one in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 5 and len(set(results)) == 1 and len(server.asked) == 1


def test_what_was_not_used_for_long_makes_room(server: Server, tmp_path: Path) -> None:
    size = max(file.stat().st_size for file in server.folder.glob("*.tar"))
    store = fetched(tmp_path, 2 * size)
    for k in (0, 1, 0, 2, 3):
        store.path(f"{server.url}/all-00{k}.tar")
        assert sum(file.stat().st_size for file in store.folder.glob("*.tar")) <= 2 * size
    assert [name for name, _ in server.asked] == [f"all-00{k}.tar" for k in (0, 1, 2, 3)]
    assert sorted(file.name[-7:] for file in store.folder.glob("*.tar")) == ["002.tar", "003.tar"]


def test_what_cannot_be_fetched_is_reported(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/all-005\.tar: no such file on the server; check the address$"):
        scan(Path(f"{server.url}/all-{{000..009}}.tar"), CODE)
    server.shutdown()
    server.server_close()
    with pytest.raises(
        UserError, match=r"^--dataroot http://127.*: cannot be fetched: .*refused; check address and net"
    ):
        fetched(tmp_path).path(f"{server.url}/all-000.tar")


@pytest.mark.parametrize("indexed", [True, False])
def test_shards_of_a_server_are_those_of_the_folder(server: Server, packed: Path, indexed: bool) -> None:
    if not indexed:
        for file in server.folder.glob("*.csv"):
            file.unlink()
    there = data_of(Path(f"{server.url}/all-{{000..004}}.tar"))
    here = data_of(spec(packed))
    for step in (0, 30):
        assert same(there.batch(step), here.batch(step))
    data_of(Path(f"{server.url}/all-{{000..004}}.tar"))  # indices are kept
    assert max(Counter(name for name, _ in server.asked).values()) == 1


def test_more_than_fits_is_drawn_part_after_part(server: Server, tmp_path: Path) -> None:
    dataroot = Path(f"{server.url}/all-{{000..004}}.tar")
    gb = 4.05 * open_shards(spec(server.folder)).largest / 1e9
    data = data_of(dataroot, cache_gb=gb)
    assert data._cache.parts == 3
    tars = fetched(tmp_path).folder
    drawn = [data.batch(step) for step in range(24)]
    assert sum(file.stat().st_size for file in tars.glob("*.tar")) <= gb * 1e9
    assert same(data_of(dataroot, cache_gb=gb).batch(13), drawn[13])
    ages = torch.cat([batch.age_target for batch in drawn[:12]])
    assert Counter(CODE.group(float(age)) for age in ages) == dict.fromkeys(range(6), 8)  # 48 draws are a pass
    names = [name for name, _ in server.asked if name.endswith(".tar")]
    assert len(set(names)) == 5 and len(names) <= 5 + 6
    for shards in (data_of(dataroot, cache_gb=gb), data_of(dataroot)):  # all of them in the memory of a device
        assert len(shards._load(torch.device("cpu"), progress=False)[1]) == 44
    with pytest.raises(
        UserError, match=r"^--shard_cache .*: a shard has .* GB, and two must fit; raise it to at least 0\.01"
    ):
        data_of(dataroot, cache_gb=gb / 4)
    with pytest.raises(UserError, match=r"^--shard_cache: pairs of pictures of one person need all shards"):
        data_of(dataroot, cache_gb=gb, paired=True)


def test_processes_make_the_batches_and_the_next_window_is_fetched(server: Server, tmp_path: Path) -> None:
    dataroot = Path(f"{server.url}/all-{{000..004}}.tar")
    gb = 4.05 * open_shards(spec(server.folder)).largest / 1e9
    data, direct = data_of(dataroot, cache_gb=gb), data_of(dataroot, cache_gb=gb)
    with closing(data.batches(5, 1, 2)) as stream:
        for step, batch in zip(range(5, 25), stream, strict=False):
            assert same(batch, direct.batch(step, 1, 2))
    assert isinstance(data._cache, ShardPictures) and isinstance(data._cache.paths, Shards)
    with closing(prefetching(data._draws, iter([()] * 100), 0, 0, 1)) as stream:
        list(islice(stream, 3))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shards")]


# Commands


def test_a_training_and_an_evaluation_read_shards(server: Server, tmp_path: Path) -> None:
    words = ["--dataroot", f"{server.url}/all-{{000..004}}.tar", "--results_dir", str(tmp_path / "results")]
    assert train_command.main([*words, *TINY.split()]) == 0
    assert (tmp_path / "results" / "tiny" / "weights.safetensors").is_file()
    more = ["--weights", "tiny", "--limit", "2", "--image_size", "32", "--workers", "0", "--name", "scores"]
    evaluate(parse_evaluate([*words, *more]), print, list)  # without judges
    assert json.loads((tmp_path / "results" / "scores" / "table.json").read_text())["faces"][0].startswith("all-00")
