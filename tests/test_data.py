"""Folders to labels, files to the cache, the cache to batches."""

import errno
import fcntl
import io
import logging
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import UserError
from cyclegan_age.data import cache as cache_module
from cyclegan_age.data import face_data
from cyclegan_age.data.age_folders import label
from cyclegan_age.data.batches import Batch, streamed
from cyclegan_age.data.cache import PictureCache
from cyclegan_age.data.draws import Draws, balanced
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.data.folders import scan, scan_pair
from cyclegan_age.data.resident import ResidentPictures, _hash
from cyclegan_age.data.workers import in_processes
from cyclegan_age.images import absent, list_images, to_uint8, unread

Decoded = list[str]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def save(path: Path, value: int = 0, size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """Names of the files that the cache decodes."""
    names: Decoded = []
    real = cache_module.open_image

    def counting(path: Path) -> Image.Image:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(cache_module, "open_image", counting)
    return names


# Folders


@pytest.mark.parametrize(
    "names",
    [
        ["10", "20", "30", "40", "50", "60"],
        ["10s", "20s", "30s", "40s", "50s", "60s"],
        ["10-19", "20-29", "30-39", "40-49", "50-59", "60-69"],
        ["10_19", "age_20", "30 to 39", "Ages 40-49", "50s", "60+"],
    ],
)
def test_decade_folders_are_the_default_groups(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *(f"{name}/x.jpg" for name in names))
    faces = scan(tmp_path, AgeCode())
    assert sorted(faces.group.tolist()) == [0, 1, 2, 3, 4, 5]
    assert faces.left_out == {}


def test_a_folder_without_an_end_keeps_its_oldest(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/x.jpg" for name in range(10, 60, 10)), "60+/60_0_0_x.jpg", "60+/93_0_0_x.jpg")
    faces = scan(tmp_path, AgeCode())
    assert (faces.group[-1], faces.age_years[-1], faces.left_out) == (5, 93, {})
    assert len(scan_pair(tmp_path, "20", "60+")[1]) == 2
    assert len(scan(tmp_path, AgeCode((10, 20, 30, 40)), every_group=False).paths) == 4  # no place for 60 to 93


def agfw() -> list[str]:
    return [f"age_{low}_{low + 4}" for low in range(10, 65, 5)]


@pytest.mark.parametrize("sexes", [[""], ["male/", "female/"]])
def test_agfw_folds_into_decades(tmp_path: Path, sexes: list[str]) -> None:
    touch(tmp_path, *(f"{sex}{name}/{i}.png" for sex in sexes for name in agfw() for i in (1, 2)))
    onehot = scan(tmp_path, AgeCode(form="onehot"))
    assert onehot.paths == sorted(onehot.paths) and len(onehot.paths) == 22 * len(sexes)
    assert (np.bincount(onehot.group) == np.array([4, 4, 4, 4, 4, 2]) * len(sexes)).all()
    linear = scan(tmp_path, AgeCode())
    assert (np.bincount(linear.group) == np.array([2, 4, 4, 4, 4, 4]) * len(sexes)).all()
    assert set(linear.age_years.tolist()) == {12, 17, 22, 27, 32, 37, 42, 47, 52, 57, 62}
    assert linear.age_years.dtype == np.float32 and linear.group.dtype == np.int64


@pytest.mark.parametrize(
    ("name", "years"),
    [
        ("25_0_2_20170104.jpg", 25),
        ("61_1_3_20170109.jpg", 61),  # this form holds, whatever the folder says
        ("25_0_5_20170104.jpg", 25),  # no such race, but a number of the folder's years
        ("61_1_20170109142408075.jpg", 24.5),
        ("23-anna.jpg", 23),
        ("29_x.jpg", 29),
        ("30_x.jpg", 24.5),
        ("0001.jpg", 24.5),
        ("0021_x.jpg", 24.5),
        ("20170104.jpg", 24.5),
        ("25.jpg", 24.5),
        ("anna_25.jpg", 24.5),
    ],
)
def test_the_label_is_the_age_in_the_file_name_else_the_folders_middle(name: str, years: float) -> None:
    assert label(name, (20, 29)) == years


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/x.jpg" for name in agfw()), "0-9/x.jpg", "0-9/9_0_0_x.jpg", "70+/x.jpg")
    touch(tmp_path, "stray.jpg", "unsorted/deep/y.jpg", "20_24/notes.txt", "20_24/.hidden.jpg", ".trash/z.jpg")
    faces = scan(tmp_path, AgeCode())
    groups = "younger or older than the groups (from 5 to below 70 years)"
    assert faces.left_out == {groups: 2, "not in an age folder": 2}
    assert len(faces.paths) == 12 and 9.0 in faces.age_years


def test_odd_names_do_not_matter(tmp_path: Path) -> None:
    touch(tmp_path, "10/a b\n<é>.jpg", "20/20_0_0_'\".jpg")
    raw = os.fsencode(tmp_path) + b"/20/\xff\xfe.jpg"
    try:
        os.close(os.open(raw, os.O_CREAT))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    faces = scan(tmp_path, AgeCode((10, 20)))
    assert len(faces.paths) == 3
    cache = PictureCache(faces.paths, tmp_path, 16, tmp_path / "cache")
    assert [cache.get(i) for i in range(3)] == [None] * 3  # they are empty
    again = PictureCache(faces.paths, tmp_path, 16, tmp_path / "cache")
    assert again.get(0) is None


@pytest.mark.parametrize(
    ("files", "where", "message"),
    [
        ([], "none", "--dataroot .*none: no such folder"),
        (["file"], "file", "--dataroot .*file: not a folder"),
        (["a/b/x.jpg", "x.jpg"], "", r"--dataroot .*/: no age folders found; expected names like 20, .* or 60\+"),
        (["10/x.heic", "20/x.cr2"], "", "no pictures in its age folders; not read: 1 .cr2"),
        (["10/x.txt", "20/x.txt"], "", "--dataroot .*: no pictures in its age folders"),
        (
            ["train/10/x.jpg", "val/10/x.jpg"],
            "",
            "--dataroot .*: no age folders directly in it; expected .*train or .*val",
        ),
        (
            ["10s/x.jpg", "30s/x.jpg", "70s/x.jpg"],
            "",
            r"--ages 10 20 40: .* the age 20 \(from 15 to below 30\); choose ",
        ),
        (["80s/x.jpg"], "", r"--ages 10 20 40: .* the age 10 .*, 20 .*, 40 "),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, files: list[str], where: str, message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message) as error:
        scan(tmp_path / where, AgeCode((10, 20, 40)))
    assert "\n" not in str(error.value)


def test_empty_groups_can_be_allowed(tmp_path: Path) -> None:
    touch(tmp_path, "20s/x.jpg")
    assert scan(tmp_path, AgeCode(), every_group=False).group.tolist() == [1]


def test_a_link_to_a_folder_above_does_not_make_faces_count_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "faces/20s/a.jpg", "faces/30s/b.jpg", "other/c.jpg")
    root = tmp_path / "faces"
    (root / "20s" / "up").symlink_to(root, target_is_directory=True)
    (root / "30s" / "self").symlink_to(root / "30s", target_is_directory=True)
    (root / "30s" / "more").symlink_to(tmp_path / "other", target_is_directory=True)
    (root / "30s" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    faces = scan(root, AgeCode(), every_group=False)
    assert [p.relative_to(root).as_posix() for p in faces.paths] == ["20s/a.jpg", "30s/b.jpg", "30s/more/c.jpg"]
    said = (
        "skipped 2 links to a folder above: 20s/up, 30s/self; skipped 1 link to a missing file or folder: 30s/gone.jpg"
    )
    assert caplog.messages == [f"{root}: {said}"]


def test_a_folder_that_is_linked_into_another_one_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "20s/a.jpg", "30s/b.jpg")
    (tmp_path / "20s" / "more").symlink_to(tmp_path / "30s", target_is_directory=True)
    with pytest.raises(UserError, match="20s/more and 30s are one folder, whose faces count twice; remove a link"):
        scan(tmp_path, AgeCode(), every_group=False)
    (tmp_path / "20s" / "more").unlink()
    assert len(scan(tmp_path, AgeCode(), every_group=False).paths) == 2


def test_links_to_nothing_and_folders_that_cannot_be_opened_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "below/b.jpg", "closed/c.jpg")
    for name in ("gone.jpg", "below/gone", ".hidden.jpg"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "round.jpg")
    real = os.scandir

    def refusing(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.jpg"]
    assert unread(tmp_path) == (
        "skipped 3 links to a missing file or folder: gone.jpg, round.jpg, below/gone; "
        "skipped 1 folder that cannot be opened (Permission denied): closed"
    )
    assert absent(tmp_path / "gone.jpg") == f"a link to {tmp_path / 'nowhere'}, which does not exist; correct it"
    assert absent(tmp_path / "nowhere") == "no such file or folder; check the name"
    assert unread(tmp_path / "below") == "skipped 1 link to a missing file or folder: gone"


def test_pair_from_age_folders(tmp_path: Path) -> None:
    touch(tmp_path, "10-14/x.jpg", "20-24/x.jpg", "25-29/30_0_0_x.jpg", "25-29/29_0_0_x.jpg")
    touch(tmp_path, "50-59/50_x.jpg", "60s/x.jpg")
    young, old = scan_pair(tmp_path, "20-29", "50s")
    assert [p.name for p in young] == ["x.jpg", "29_0_0_x.jpg"] and [p.name for p in old] == ["50_x.jpg"]
    assert len(scan_pair(tmp_path, "20", "60+")[0]) == 2
    with pytest.raises(UserError, match=r"--group_b 80s: must be an age group with pictures in"):
        scan_pair(tmp_path, "20s", "80s")
    with pytest.raises(UserError, match="--group_a young: not an age group"):
        scan_pair(tmp_path, "young", "50s")


def test_pair_from_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, "trainA/b.jpg", "trainA/a.png", "trainB/c.jpg", "testA/d.jpg")
    a, b = scan_pair(tmp_path, "", "")
    assert [p.name for p in (*a, *b)] == ["a.png", "b.jpg", "c.jpg"]
    (tmp_path / "trainB" / "c.jpg").unlink()
    with pytest.raises(UserError, match="no pictures in trainB/"):
        scan_pair(tmp_path, "", "")


# Cache


def some(root: Path, count: int) -> list[Path]:
    return [save(root / f"20/{i}.png", i) for i in range(count)]


def values(cache: PictureCache) -> list[int | None]:
    pictures = [cache.get(i) for i in range(len(cache))]
    return [None if p is None else int(p[0, 0, 0]) for p in pictures]


def test_each_file_is_decoded_once(tmp_path: Path, decoded: Decoded) -> None:
    paths = some(tmp_path, 5)
    cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
    assert values(cache) == [0, 1, 2, 3, 4] and len(decoded) == 5
    picture = cache.get(3)
    assert picture is not None and picture.shape == (8, 8, 3) and picture.flags.writeable and (picture == 3).all()
    assert values(PictureCache(paths, tmp_path, 8, tmp_path / "cache")) == [0, 1, 2, 3, 4]
    assert len(decoded) == 5
    assert values(PictureCache(paths, tmp_path, 4, tmp_path / "cache")) == [0, 1, 2, 3, 4]
    assert len(decoded) == 10  # another size


def test_changed_added_and_removed_files(tmp_path: Path, decoded: Decoded) -> None:
    paths = some(tmp_path, 6)
    values(PictureCache(paths, tmp_path, 8, tmp_path / "cache"))
    decoded.clear()
    save(paths[2], 200)
    os.utime(paths[2], ns=(1, 1))
    paths[4].unlink()
    paths = sorted([*paths[:4], paths[5], save(tmp_path / "20" / "00.png", 100)])
    assert values(PictureCache(paths, tmp_path, 8, tmp_path / "cache")) == [0, 100, 1, 200, 3, 5]
    assert sorted(decoded) == ["00.png", "2.png"]


def test_a_file_that_changes_in_size_alone_is_decoded_again(tmp_path: Path, decoded: Decoded) -> None:
    path = save(tmp_path / "20" / "a.png", 7)
    stamp = path.stat().st_mtime_ns
    assert values(PictureCache([path], tmp_path, 8, tmp_path / "cache")) == [7]
    save(path, 9, (30, 30))
    os.utime(path, ns=(stamp, stamp))
    assert values(PictureCache([path], tmp_path, 8, tmp_path / "cache")) == [9]


def test_other_lists_of_files_share_the_cache(tmp_path: Path, decoded: Decoded) -> None:
    paths = some(tmp_path, 6)
    first = PictureCache(paths[:4], tmp_path, 8, tmp_path / "cache")
    second = PictureCache(paths[2:][::-1], tmp_path, 8, tmp_path / "cache")
    assert values(second) == [5, 4, 3, 2]
    assert values(first) == [0, 1, 2, 3] and len(decoded) == 6
    assert values(PictureCache(paths, tmp_path, 8, tmp_path / "cache")) == [0, 1, 2, 3, 4, 5]
    assert len(decoded) == 6


def test_several_trainings_fill_it_at_once(tmp_path: Path, decoded: Decoded) -> None:
    paths = some(tmp_path, 40)
    start, found = threading.Barrier(6), []

    def train(k: int) -> None:
        start.wait()
        cache = PictureCache(paths[k:], tmp_path, 8, tmp_path / "cache")
        found.append(values(cache) == list(range(k, 40)))

    trainings = [threading.Thread(target=train, args=(k,)) for k in range(6)]
    for thread in trainings:
        thread.start()
    for thread in trainings:
        thread.join()
    assert found == [True] * 6
    decoded.clear()
    assert values(PictureCache(paths, tmp_path, 8, tmp_path / "cache")) == list(range(40)) and not decoded


def test_the_index_is_changed_by_one_at_a_time(tmp_path: Path) -> None:
    paths = some(tmp_path, 1)
    lock = PictureCache([], tmp_path, 8, tmp_path / "cache").folder / "lock"
    other = threading.Thread(target=PictureCache, args=(paths, tmp_path, 8, tmp_path / "cache"))
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other.start()
        other.join(0.3)
        assert other.is_alive()
    other.join(30)
    assert not other.is_alive()


def test_rows_of_files_that_are_gone_do_not_pile_up(tmp_path: Path) -> None:
    paths = some(tmp_path, 4)
    open_one = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
    values(open_one)
    for turn in range(1, 6):
        for i, path in enumerate(paths):
            save(path, 10 * turn + i)
            os.utime(path, ns=(turn, turn))
        cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
        assert values(cache) == [10 * turn + i for i in range(4)]
    pixels = list(cache.folder.glob("pixels-*"))
    assert len(pixels) == 1 and pixels[0].stat().st_size <= 2 * 4 * 8 * 8 * 3
    assert values(open_one) == [0, 1, 2, 3]  # a training that still has the old file open


def test_a_cache_recreated_is_kept(tmp_path: Path, decoded: Decoded) -> None:
    paths = some(tmp_path, 3)
    values(PictureCache(paths, tmp_path, 8, tmp_path / "cache"))
    for path in paths[1:]:
        path.unlink()
    for _ in range(2):
        assert values(PictureCache(paths[:1], tmp_path, 8, tmp_path / "cache")) == [0]
    assert len(decoded) == 4


@pytest.mark.parametrize("harm", ["torn", "cut", "index", "lost"])
def test_a_harmed_cache_heals(tmp_path: Path, decoded: Decoded, harm: str) -> None:
    paths = some(tmp_path, 3)
    cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
    assert values(cache) == [0, 1, 2]
    (pixels,) = cache.folder.glob("pixels-*")
    if harm == "torn":
        pixels.write_bytes(bytes(192) + b"\5" * 100 + bytes(92) + b"\2" * 192)
    elif harm == "cut":
        pixels.write_bytes(pixels.read_bytes()[:250])
    elif harm == "index":
        (cache.folder / "index.json").write_text('{"files": {')
    else:
        pixels.unlink()
    assert values(PictureCache(paths, tmp_path, 8, tmp_path / "cache")) == [0, 1, 2]
    assert len(decoded) == 3 + {"torn": 1, "cut": 2, "index": 3, "lost": 3}[harm]


def test_a_kill_between_pixels_and_mark_leaves_nothing_half_done(
    tmp_path: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = some(tmp_path, 1)
    real, calls = os.pwrite, []

    def dying(file: int, data: bytes, offset: int) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(file, data[:100], offset)  # as a kill amid the row would

    monkeypatch.setattr(os, "pwrite", dying)
    with pytest.raises(KeyboardInterrupt):
        PictureCache(paths, tmp_path, 8, tmp_path / "cache").get(0)
    monkeypatch.undo()
    assert calls == [192, 92]
    assert values(PictureCache(paths, tmp_path, 8, tmp_path / "cache")) == [0]


def bad_files(root: Path) -> dict[str, str]:
    """Write files that cannot be used; name -> cause."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    Image.new("1", (12_100, 10_000)).save(root / "large.png")
    (root / "truncated.jpg").write_bytes(file.getvalue()[:-800])
    (root / "empty.jpg").touch()
    (root / "text.jpg").write_text("<html>not found</html>")
    return {"truncated.jpg": "truncated", "empty.jpg": "empty", "text.jpg": "not a picture", "large.png": "more than"}


def odd_files(root: Path) -> list[str]:
    """Write files that are unusual, yet to be used."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (9, 9)).save(root / "cmyk.jpg")
    Image.fromarray(np.full((9, 9), 30000, np.uint16)).save(root / "deep.png")
    Image.new("RGBA", (9, 9), (9, 9, 9, 99)).save(root / "alpha.png")
    Image.new("RGB", (9, 5)).save(root / "turned.jpg", exif=exif)
    Image.new("RGB", (3000, 4)).save(root / "line.png")
    return ["cmyk.jpg", "deep.png", "alpha.png", "turned.jpg", "line.png"]


def test_bad_files_are_named_once_and_skipped(
    tmp_path: Path, decoded: Decoded, caplog: pytest.LogCaptureFixture
) -> None:
    good, causes = odd_files(tmp_path), bad_files(tmp_path)
    names = [*good, *causes, "vanished.jpg"]
    cache = PictureCache([tmp_path / name for name in names], tmp_path, 8, tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "cyclegan_age"):
        for _ in range(2):
            found = [cache.get(i) is not None for i in range(len(names))]
            assert found == [True] * len(good) + [False] * (len(causes) + 1)
    assert len(decoded) == len(names)
    assert {path.name for path in cache.bad} == {*causes, "vanished.jpg"}
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == len(causes) + 1
    for name, cause in {**causes, "vanished.jpg": "No such file"}.items():
        assert cause in cache.bad[tmp_path / name]
        assert any(str(tmp_path / name) in message and cause in message for message in warned)


def test_a_file_that_vanishes_after_the_start_is_bad(tmp_path: Path) -> None:
    paths = some(tmp_path, 2)
    cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
    paths[1].unlink()
    assert values(cache) == [0, None] and list(cache.bad) == [paths[1]]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = some(tmp_path, 1)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CYCLEGAN_AGE_CACHE", raising=False)
    assert (tmp_path / "home/.cache/cyclegan_age") in PictureCache(paths, tmp_path, 8).folder.parents
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert (tmp_path / "xdg/cyclegan_age") in PictureCache(paths, tmp_path, 8).folder.parents
    monkeypatch.setenv("CYCLEGAN_AGE_CACHE", str(tmp_path / "own"))
    assert (tmp_path / "own/cyclegan_age") in PictureCache(paths, tmp_path, 8).folder.parents


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = some(tmp_path, 1)
    (tmp_path / "file").touch()
    message = "^CYCLEGAN_AGE_CACHE: .*; set it to a writable folder with free space$"
    with pytest.raises(UserError, match=message):
        PictureCache(paths, tmp_path, 8, tmp_path / "file")
    cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
        patch.setattr(os, "pwrite", full)
        cache.get(0)
    assert not cache.bad and values(cache) == [0]
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    PictureCache(paths, tmp_path, 8, tmp_path / "cache")  # all there already
    with pytest.raises(UserError, match="GB needed"):
        PictureCache(paths, tmp_path, 9, tmp_path / "cache")


def all_values(cache: PictureCache, count: int | None = None) -> dict[int, int]:
    """Number -> grey value of the usable ones of the first pictures, as `pieces` gives them."""
    wanted = np.arange(len(cache) if count is None else count)
    pieces = list(cache.pieces(wanted))
    assert all(len(pixels) == len(i) and (pixels == pixels[:, :1, :1, :1]).all() for i, pixels in pieces)
    return {int(i): int(p[0, 0, 0]) for indices, pixels in pieces for i, p in zip(indices, pixels, strict=True)}


@pytest.mark.parametrize("most", [1, 3, 100])
def test_pieces_have_every_picture_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: Decoded, most: int
) -> None:
    monkeypatch.setattr(cache_module, "_PIECE", most * 192)
    monkeypatch.setattr(cache_module, "_CHUNK", 2)
    paths = some(tmp_path, 12)
    values(PictureCache(paths[::2], tmp_path, 8, tmp_path / "cache"))
    cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")  # rows 0 6 1 7 2 8 and so on
    assert all_values(cache) == {i: i for i in range(12)} and len(decoded) == 12
    again = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
    assert all_values(again) == {i: i for i in range(12)} and len(decoded) == 12
    assert max(len(indices) for indices, _ in again.pieces(np.arange(12))) == min(most, 12)
    assert all_values(again, 5) == {i: i for i in range(5)}
    assert list(again.pieces(np.arange(0))) == []


def test_pieces_heal_what_is_harmed_and_leave_out_what_is_bad(tmp_path: Path, decoded: Decoded) -> None:
    paths = some(tmp_path, 6)
    paths[2].write_bytes(b"")
    cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
    assert all_values(cache) == {i: i for i in (0, 1, 3, 4, 5)} and list(cache.bad) == [paths[2]]
    (pixels,) = cache.folder.glob("pixels-*")
    pixels.write_bytes(pixels.read_bytes()[: 4 * 192 + 10])
    decoded.clear()
    assert all_values(PictureCache(paths, tmp_path, 8, tmp_path / "cache")) == {i: i for i in (0, 1, 3, 4, 5)}
    assert decoded == ["2.png", "4.png", "5.png"]


def test_many_pictures_are_decoded_in_processes(
    tmp_path: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "_MANY", 30)
    paths = some(tmp_path, 40)
    for k in (7, 33):
        paths[k].write_bytes(b"")
    cache = PictureCache(paths, tmp_path, 8, tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "cyclegan_age"):
        assert all_values(cache) == {i: i for i in range(40) if i not in (7, 33)}
    assert decoded == [] and multiprocessing.active_children() == []  # not here, and the processes ended
    assert [record.getMessage() for record in caplog.records] == [f"{paths[k]}: left out: empty file" for k in (7, 33)]
    assert cache.bad == dict.fromkeys((paths[7], paths[33]), "empty file")
    (pixels,) = cache.folder.glob("pixels-*")
    pixels.unlink()  # another training began the cache anew: the processes cannot write to the file open here
    (marks,) = cache.folder.glob("marks-*")
    os.truncate(marks, 0)
    marks.unlink()
    assert all_values(cache) == {i: i for i in range(40) if i not in (7, 33)}
    assert len(decoded) == 38


def test_one_training_at_a_time_decodes(tmp_path: Path) -> None:
    cache = PictureCache(some(tmp_path, 3), tmp_path, 8, tmp_path / "cache")
    other = threading.Thread(target=all_values, args=(cache,))
    with (cache.folder / "decoding").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other.start()
        other.join(0.3)
        assert other.is_alive()
    other.join(30)
    assert not other.is_alive()


# Processes


def halved(number: int) -> float:
    if number == 5:
        raise UserError("five: must be even")
    return number / 2


def test_results_of_processes_come_in_order_and_errors_as_they_are() -> None:
    before = torch.get_rng_state()
    with closing(in_processes(halved, count(6), 2)) as results:
        assert list(islice(results, 20)) == [k / 2 for k in range(6, 26)]
    assert multiprocessing.active_children() == []
    assert list(in_processes(halved, range(3), 2)) == [0, 0.5, 1]
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UserError, match=r"^five: must be even$"):
        list(in_processes(halved, range(9), 2))
    assert multiprocessing.active_children() == []


# Batches


def numbered(tmp_path: Path, sizes: tuple[int, ...], *, size: int = 6, **options: object) -> FaceData:
    """Pools of flat pictures whose grey value, and age, is their number in the cache."""
    count = sum(sizes)
    paths = [save(tmp_path / f"20/{i:03}.png", i, (size, size)) for i in range(count)]
    cache = PictureCache(paths, tmp_path, size, tmp_path / "cache")
    pools = np.split(np.arange(count), np.cumsum(sizes)[:-1])
    given = {"image_size": 4, "flip": True, "batch_size": 4, "seed": 3, **options}
    ages = np.arange(count, dtype=np.float32)
    return FaceData(
        Draws(cache=cache, age_years=ages, source_pools=pools, target_pools=pools, **given)  # type: ignore[arg-type]
    )


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in (
            (a.x_source, b.x_source),
            (a.age_source, b.age_source),
            (a.x_target, b.x_target),
            (a.age_target, b.age_target),
        )
    )


CPU = torch.device("cpu")
Draw = Callable[..., Batch]


def of_processor(data: FaceData, step: int, rank: int = 0, world: int = 1) -> Batch:
    return data.batch(step, rank, world)


def of_device(data: FaceData, step: int, rank: int = 0, world: int = 1) -> Batch:
    return Batch(*data.resident(CPU, rank, world).batch(step))


both = pytest.mark.parametrize("draw", [of_processor, of_device])


@both
def test_a_batch_has_the_pictures_of_its_ages(tmp_path: Path, draw: Draw) -> None:
    labels = np.stack([np.arange(8), 10 - np.arange(8)], 1)
    batch = draw(numbered(tmp_path, (5, 3), labels=labels), 0)
    for x, age, known in (
        (batch.x_source, batch.age_source, batch.label_source),
        (batch.x_target, batch.age_target, batch.label_target),
    ):
        assert x.shape == (4, 3, 4, 4) and x.dtype == age.dtype == torch.float32 and age.shape == (4,)
        assert x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close((x + 1) * 127.5, age.view(4, 1, 1, 1).expand_as(x), atol=1e-3, rtol=0)
        assert torch.equal(known, torch.stack([age, 10 - age], 1))
    assert draw(numbered(tmp_path, (5, 3)), 0).label_source.shape == (4, 0)


@both
@pytest.mark.parametrize("stream", ["age_source", "age_target"])
def test_groups_are_balanced_and_nothing_repeats_within_a_pass(tmp_path: Path, stream: str, draw: Draw) -> None:
    data = numbered(tmp_path, (7, 3, 5))
    assert len(data) == 15
    ages = [int(a) for step in range(60) for a in getattr(draw(data, step), stream)]  # 240 draws, 80 of each group
    group = np.digitize(ages, [7, 10])
    assert all(set(block) == {0, 1, 2} for block in group.reshape(-1, 3))
    orders = set()
    for k, size in enumerate((7, 3, 5)):
        drawn = np.array(ages)[group == k]
        passes = [tuple(drawn[i : i + size]) for i in range(0, 80 - size + 1, size)]
        assert all(len(set(p)) == size for p in passes)
        orders.update(passes)
    assert len(orders) > 20  # each pass has its own order
    assert len({tuple(block) for block in group.reshape(-1, 3)}) == 6


@both
@pytest.mark.parametrize("sizes", [(1, 2, 9), (1,), (2, 40), (3,) * 30])
def test_pools_smaller_than_a_batch(tmp_path: Path, sizes: tuple[int, ...], draw: Draw) -> None:
    data = numbered(tmp_path, sizes, batch_size=23)
    ages = [int(a) for step in range(8) for rank in range(3) for a in draw(data, step, rank, 3).age_source]
    group = np.digitize(ages, np.cumsum(sizes)[:-1])
    blocks = group[: len(group) // len(sizes) * len(sizes)].reshape(-1, len(sizes))
    assert (np.sort(blocks) == np.arange(len(sizes))).all()
    for k, size in enumerate(sizes):
        drawn = np.array(ages)[group == k]
        passes = drawn[: len(drawn) // size * size].reshape(-1, size)
        assert len(passes) and (np.sort(passes) == passes.min() + np.arange(size)).all()


@both
def test_a_target_is_the_picture_after_its_source_in_the_pass(tmp_path: Path, draw: Draw) -> None:
    sizes = (7, 3, 2)
    data = numbered(tmp_path, sizes, paired=True, batch_size=6)
    batches = [draw(data, step) for step in range(21)]
    pairs = torch.cat([torch.stack([batch.age_source, batch.age_target], 1) for batch in batches]).int().numpy()
    group = np.digitize(pairs, [7, 10])
    assert (group[:, 0] == group[:, 1]).all()
    for k, size in enumerate(sizes):
        drawn = pairs[group[:, 0] == k]
        for i in range(0, len(drawn) - size + 1, size):
            source, target = drawn[i : i + size].T
            assert len(set(source)) == size and (np.roll(source, -1) == target).all()


def test_balanced_pools_have_the_same_share_of_each_kind() -> None:
    kinds = np.repeat([0, 1, 0, 1], (8, 2, 5, 5))  # shares of 80, 20, 50, 50 %: on average 65 and 35 %
    first, second = balanced([np.arange(10), np.arange(10, 20)], kinds)
    assert [np.bincount(kinds[pool]).tolist() for pool in (first, second)] == [[8, 4], [9, 5]]
    assert np.bincount(first).tolist() == [1] * 8 + [2] * 2
    assert set(second) == set(range(10, 20)) and np.bincount(second).max() == 2
    # a kind that a pool has not stays away, one that is very rare is drawn four times as often
    first, second = balanced([np.arange(10), np.arange(10, 111)], np.repeat([0, 1, 0, 1, 2], (5, 5, 99, 1, 1)))
    assert np.bincount(first).tolist() == [3] * 5 + [1] * 5
    assert np.bincount(second)[109:].tolist() == [4, 1]


@both
def test_source_and_target_are_independent(tmp_path: Path, draw: Draw) -> None:
    data = numbered(tmp_path, (8, 8))
    pairs = Counter(
        (int(s) // 8, int(t) // 8)
        for step in range(50)
        for s, t in zip(*(lambda b: (b.age_source, b.age_target))(draw(data, step)), strict=True)
    )
    assert len(pairs) == 4 and min(pairs.values()) > 25


@both
def test_a_batch_depends_on_its_step_alone(tmp_path: Path, draw: Draw) -> None:
    data = numbered(tmp_path, (5, 4))
    wanted = draw(data, 5)
    for step in (0, 17, 5, 4):
        last = draw(data, step)
        assert same(last, wanted) == (step == 5)
    assert same(draw(numbered(tmp_path, (5, 4)), 5), wanted)
    assert not same(draw(numbered(tmp_path, (5, 4), seed=4), 5), wanted)


def test_draws_of_a_device_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    data = numbered(tmp_path, (5, 4, 1))
    pictures = data.resident(CPU)
    for step in (0, 31, 32, 1000, 31, 95, 96, 0, 10**9):
        assert same(Batch(*pictures.batch(step)), of_device(data, step))


@both
def test_processes_share_the_draws(tmp_path: Path, draw: Draw) -> None:
    whole = numbered(tmp_path, (5, 4), batch_size=8)
    half = numbered(tmp_path, (5, 4), batch_size=4)
    for step in (0, 1, 2, 40, 1_000_000):
        parts = [draw(half, step, rank, 2) for rank in range(2)]
        assert torch.equal(torch.cat([p.x_source for p in parts]), draw(whole, step).x_source)
        assert torch.equal(torch.cat([p.age_target for p in parts]), draw(whole, step).age_target)


def test_the_hash_is_that_of_splitmix64() -> None:
    def mixed(state: int, number: int) -> int:
        z = (state + number * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    first, second = torch.arange(3)[:, None], torch.tensor([0, 7, 2**40])
    wanted = [[mixed(mixed(2**64 - 5, a), b) for b in (0, 7, 2**40)] for a in range(3)]
    assert [[bits % 2**64 for bits in row] for row in _hash(-5, first, second).tolist()] == wanted
    assert mixed(0, 1) == 0xE220A8397B1DCDAF  # the first number of the reference implementation for the seed 0


def ramp(tmp_path: Path, **options: object) -> FaceData:
    """One picture whose red is its column and whose green is its row."""
    across = np.tile(np.arange(12, dtype=np.uint8) * 10, (12, 1))
    path = tmp_path / "20" / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.stack([across, across.T, across], 2)).save(path)
    cache = PictureCache([path], tmp_path, 12, tmp_path / "cache")
    pool = [np.array([0])]
    given = {"image_size": 8, "flip": True, "batch_size": 100, "seed": 0, **options}
    ages = np.array([20.0], np.float32)
    return FaceData(
        Draws(cache=cache, age_years=ages, source_pools=pool, target_pools=pool, **given)  # type: ignore[arg-type]
    )


@both
@pytest.mark.parametrize("flip", [True, False])
def test_crops_and_mirroring(tmp_path: Path, flip: bool, draw: Draw) -> None:
    x = draw(ramp(tmp_path, flip=flip), 0).x_source  # (100, 3, 8, 8)
    pixels = ((x + 1) * 12.75).round().int()
    left, right, top = pixels[:, 0, 0, 0], pixels[:, 0, 0, 7], pixels[:, 1, 0, 0]
    mirrored = left > right
    assert (30 < mirrored.sum() < 70) if flip else not mirrored.any()
    assert ((left - right).abs() == 7).all()
    assert set(torch.minimum(left, right).tolist()) == set(top.tolist()) == {0, 1, 2, 3, 4}


def test_places_and_mirroring_are_uniform_and_independent(tmp_path: Path) -> None:
    batch = of_device(ramp(tmp_path, batch_size=10_000), 0)
    counts = []
    for x in (batch.x_source, batch.x_target):
        pixels = ((x + 1) * 12.75).round().int()
        left, right, top = pixels[:, 0, 0, 0], pixels[:, 0, 0, 7], pixels[:, 1, 0, 0]
        counts.append(torch.bincount((top * 5 + torch.minimum(left, right)) * 2 + (left > right), minlength=50))
    for found in counts:  # 200 expected of each of 50: chi squared, 99.99 % of which is below 95
        assert ((found - 200.0) ** 2 / 200).sum() < 95
    assert not torch.equal(*counts)


def test_crops_of_a_device_are_those_of_the_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 10, 10, 3), np.uint8)
    for i, picture in enumerate(noise):
        (tmp_path / "20").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"20/{i}.png")
    cache = PictureCache(sorted(tmp_path.rglob("*.png")), tmp_path, 10, tmp_path / "cache")
    pools = [np.array([4, 1]), np.array([0, 2])]
    draws = Draws(
        cache=cache,
        age_years=np.arange(5, dtype=np.float32),
        source_pools=pools,
        target_pools=pools,
        image_size=7,
        flip=True,
        batch_size=50,
        seed=1,
    )
    data = FaceData(draws)
    batch = of_device(data, 2)
    for x, i in zip(to_uint8(batch.x_source), batch.age_source.int().tolist(), strict=True):
        crops = [noise[i, a : a + 7, b : b + 7] for a in range(4) for b in range(4)]
        assert sum(np.array_equal(x, one) for crop in crops for one in (crop, crop[:, ::-1])) == 1


def test_nothing_waits_for_the_device(tmp_path: Path) -> None:
    data = numbered(tmp_path, (5, 4, 2))
    data._resident[torch.device("meta")] = torch.empty((11, 6, 6, 3), dtype=torch.uint8, device="meta"), np.arange(11)
    pictures = data.resident(torch.device("meta"))
    for step in (0, 1, 40, 900):  # such tensors have no values: what reads one fails
        assert all(x.is_meta for x in pictures.batch(step))


@both
def test_no_room_to_crop(tmp_path: Path, draw: Draw) -> None:
    data = ramp(tmp_path, image_size=12, flip=False, batch_size=3)
    assert torch.equal(draw(data, 0).x_source, data.fixed()[0].expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="image_size 16"):
        ramp(tmp_path / "other", image_size=16)


def test_fixed_pictures_are_the_middles_of_the_first_good_ones(tmp_path: Path) -> None:
    data = ramp(tmp_path / "ramp")
    x, _ = data.fixed()
    assert ((x[0, 0, 0] + 1) * 12.75).round().tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    data = numbered(tmp_path, (3, 4))
    (tmp_path / "20/003.png").write_bytes(b"")
    x, years = data.fixed(per_pool=2)
    assert x.shape == (4, 3, 4, 4) and years.tolist() == [0, 1, 4, 5]
    assert len(data.fixed(per_pool=9)[0]) == 6


@both
def test_a_bad_picture_is_replaced_within_its_group(tmp_path: Path, draw: Draw) -> None:
    data = with_a_bad_file(tmp_path)
    drawn = [draw(data, step).age_source for step in range(12)]
    counts = Counter(int(a) // 3 for batch in drawn for a in batch)
    assert counts == {0: 24, 1: 24} and data.bad_files == 1
    assert {int(a) for batch in drawn for a in batch} == {0, 2, 3, 4, 5}
    assert torch.equal(draw(with_a_bad_file(tmp_path), 7).age_source, drawn[7])


def with_a_bad_file(tmp_path: Path) -> FaceData:
    data = numbered(tmp_path, (3, 3))
    (tmp_path / "20/001.png").write_bytes(b"")
    return data


def test_a_group_without_a_good_picture_stops_the_training(tmp_path: Path) -> None:
    data = numbered(tmp_path, (3, 2))
    for name in ("003.png", "004.png"):
        (tmp_path / "20" / name).write_bytes(b"")
    message = r"20: none of 2 pictures can be read \(003.png: empty file\)"
    with pytest.raises(UserError, match=message):
        data.batch(0)
    with pytest.raises(UserError, match=message):
        data.fixed()
    with pytest.raises(UserError, match=message):
        next(data.batches(0))
    for draw in (of_device, lambda data, step: next(streamed(data._draws, step, 0, 1, CPU))):
        again = numbered(tmp_path, (3, 2))
        for name in ("003.png", "004.png"):
            (tmp_path / "20" / name).write_bytes(b"")
        with pytest.raises(UserError, match=message):
            draw(again, 0)


def test_pictures_on_a_device_are_those_of_the_pools(tmp_path: Path, decoded: Decoded) -> None:
    data = numbered(tmp_path, (3, 4, 2))
    del data._draws.pools[0][1], data._draws.pools[1][1]
    data.resident(CPU)
    data.resident(CPU, 1, 2)
    assert sorted(decoded) == [f"{i:03}.png" for i in (0, 1, 2, 7, 8)]  # once
    assert data._resident[CPU][0].shape == (5, 6, 6, 3)


def test_batches_of_processes_are_those_of_the_processor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, direct = with_a_bad_file(tmp_path), with_a_bad_file(tmp_path)
    with closing(streamed(data._draws, 3, 1, 2, CPU)) as stream, caplog.at_level(logging.WARNING, "cyclegan_age"):
        for step, batch in zip(range(3, 25), stream, strict=False):
            assert same(batch, direct.batch(step, 1, 2)) and batch.label_source.shape == (4, 0)
        assert data.bad_files == 1
        assert sum("001.png: left out: empty file" in record.getMessage() for record in caplog.records) == 2
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("free", "fits"), [(2 * 9 * 108, True), (2 * 9 * 108 - 2, False)])
def test_what_fits_in_half_of_the_free_memory_goes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: int, fits: bool
) -> None:
    data, called = numbered(tmp_path, (5, 4)), []
    on_processor = data.resident(CPU)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    monkeypatch.setattr(data, "resident", lambda *given: called.append(given) or on_processor)
    monkeypatch.setattr(face_data, "streamed", lambda draws, *given: called.append(given) or iter("ab"))
    gpu = torch.device("cuda", 0)
    with caplog.at_level(logging.INFO, "cyclegan_age"):
        first = next(data.batches(40, device=gpu))
    assert called == ([(gpu, 0, 1)] if fits else [(40, 0, 1, gpu)])
    assert same(first, of_device(numbered(tmp_path, (5, 4)), 40)) if fits else first == "a"
    (record,) = caplog.records
    assert ("in GPU memory" if fits else "read from disk") in record.getMessage()
    caplog.clear()
    data.batches(0, 1, 2, gpu)  # the first process alone reports it
    assert not caplog.records
    assert same(next(data.batches(4, device=CPU)), data.batch(4)) and len(called) == 2


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(9, 1, 22), (20_000, 7000), (2, 3) * 3000])
def test_a_gpu_draws_what_a_processor_draws_and_nobody_waits(sizes: tuple[int, ...]) -> None:
    device, random = torch.device("cuda", torch.cuda.current_device()), np.random.default_rng(0)
    pictures = torch.from_numpy(random.integers(0, 256, (50, 12, 12, 3), np.uint8))
    pools = [random.integers(0, 50, size) for size in sizes]

    def on(where: torch.device) -> ResidentPictures:
        return ResidentPictures(
            pictures=pictures.to(where),
            age_years=torch.arange(50.0, device=where),
            labels=torch.arange(100.0, device=where).view(50, 2),
            source_pools=pools,
            target_pools=pools[::-1],
            image_size=8,
            flip=True,
            batch_size=7,
            seed=5,
        )

    there, here = on(device), on(CPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = [there.batch(step) for step in range(20, 220)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, found in enumerate(drawn, 20):
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        for x, wanted in zip(found, here.batch(step), strict=True):
            assert x.device == device
            # a GPU multiplies by the reciprocal where a processor divides
            torch.testing.assert_close(x.cpu(), wanted, atol=1e-6, rtol=0)


@gpu
@pytest.mark.gpu
def test_batches_of_processes_are_copied_to_a_gpu_in_order(tmp_path: Path) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    direct = numbered(tmp_path, (5, 4))
    with closing(streamed(numbered(tmp_path, (5, 4))._draws, 3, 0, 1, device)) as stream:
        for step, batch in zip(range(3, 60), stream, strict=False):
            assert all(x.device == device for x in vars(batch).values())
            for name, x in vars(direct.batch(step)).items():
                torch.testing.assert_close(vars(batch)[name].cpu(), x, atol=1e-6, rtol=0)


@gpu
@pytest.mark.gpu
def test_the_memory_of_a_gpu_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    data = numbered(tmp_path, (5, 4))
    with caplog.at_level(logging.INFO, "cyclegan_age"), closing(data.batches(0, device=device)) as stream:
        assert next(stream).x_source.device == device
    assert "in GPU memory" in caplog.text and device in data._resident


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_batches_are_prepared_ahead_in_order(tmp_path: Path) -> None:
    data, direct = numbered(tmp_path, (5, 4)), numbered(tmp_path, (5, 4))
    stream = data.batches(3, 1, 2)
    for step, batch in zip(range(3, 15), stream, strict=False):
        assert same(batch, direct.batch(step, 1, 2))
    assert len(threads()) == 1
    assert isinstance(stream, Iterator)
    close: Callable[[], None] = stream.close  # type: ignore[attr-defined]
    close()
    assert threads() == []


def test_the_thread_ends_when_the_iterator_is_let_go(tmp_path: Path) -> None:
    stream = numbered(tmp_path, (5, 4)).batches(0)
    assert len(list(islice(stream, 2))) == 2
    del stream
    assert threads() == []


def test_only_arrays_are_made_in_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclegan_age.data import batches as module

    real, where = module.to_float, set()

    def watched(pictures: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        where.add(threading.current_thread())
        return real(pictures)

    monkeypatch.setattr(module, "to_float", watched)
    next(numbered(tmp_path, (5, 4)).batches(0))
    assert where == {threading.main_thread()}


FACES = Path(os.environ.get("CYCLEGAN_AGE_FACES") or Path(__file__).parents[2] / "shared" / "faces")


@pytest.mark.skipif(not (FACES / "train").is_dir(), reason="CYCLEGAN_AGE_FACES names no folder of faces")
def test_real_faces(tmp_path: Path) -> None:
    faces = scan(FACES / "train", AgeCode())
    pools = [np.flatnonzero(faces.group == k) for k in range(6)]
    draws = Draws(
        cache=PictureCache(faces.paths, faces.root, 36, tmp_path),
        age_years=faces.age_years,
        source_pools=pools,
        target_pools=pools,
        image_size=32,
        flip=True,
        batch_size=6,
        seed=0,
    )
    data = FaceData(draws)
    batch = data.batch(0)
    assert sorted(AgeCode().group(float(a)) or 0 for a in batch.age_source) == [0, 1, 2, 3, 4, 5]
    assert batch.x_source.std() > 0.3
