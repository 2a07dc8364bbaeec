"""Many pictures: what is listed, named, left out and reported, and that killed processes lose nothing."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import batch as batch_command
from cyclegan_age.batch import run as batch_run
from cyclegan_age.batch import storage
from cyclegan_age.batch.items import Failures, Item, all_items, check_output, output_stems, to_do
from cyclegan_age.batch.work import Renderer, Report, Unwritable, Worker
from cyclegan_age.config import BatchConfig, CycleGANConfig, InferConfig, TrainConfig, UserError
from cyclegan_age.faces.files import Photo
from cyclegan_age.inference import Ager
from cyclegan_age.inference.engine import Engine
from cyclegan_age.models import cyclegan
from cyclegan_age.weight_files import save_weights
from options.batch import parse_batch

PROJECT = Path(__file__).resolve().parent.parent
AGES = (20.0, 45.5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny network."""
    torch.manual_seed(0)
    train, net = TrainConfig(image_size=32, load_size=36), CycleGANConfig(ngf=4, blocks=1)
    tensors = {f"generator.{k}": v for k, v in cyclegan.build_generator(train, net).state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, train, net, 0, tensors)
    return path


def nothing(line: str) -> None:
    """Takes a line for the user."""


def items_of(source: Path | str, **more: object) -> list[Item]:
    return all_items(BatchConfig(input=str(source), output="out", **more), nothing)  # type: ignore[arg-type]


def test_names_come_from_the_path_alone_and_never_collide() -> None:
    names = ["a/1.jpg", "b/1.jpg", "a/2.jpg", "a/2.png", "c/x.jpg", "C/X.jpg", "../y.jpg", "/top/z.jpg", "s3://k/z.jpg"]
    names += ["n\x01.jpg", "n_.jpg", f"{'l' * 300}1.jpg", f"{'l' * 300}2.jpg", "/".join(["deep" * 40] * 9) + "/1.jpg"]
    stems = output_stems(names)
    assert stems[:2] == ["a/1", "b/1"]
    assert stems[2].startswith("a/2-") and stems[3].startswith("a/2-")
    assert stems[6].startswith("__/y-") and stems[7:9] == ["top/z", "k/z"]
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert not stem.startswith("/") and ".." not in stem.split("/") and stem.isprintable()
        assert len(stem.encode()) < 1100 and max(len(part.encode()) for part in stem.split("/")) < 220
    more = dict(zip(["a/0.jpg", *names[::-1]], output_stems(["a/0.jpg", *names[::-1]]), strict=True))
    assert [more[name] for name in names] == stems  # whatever else is there, and in whichever order


def test_a_folder_a_list_and_one_picture_are_inputs(tmp_path: Path) -> None:
    for name in ("b/1.jpg", "a/1.JPG", "a/notes.doc", "a/.hidden.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert [item.stem for item in items_of(tmp_path / "in")] == ["a/1", "b/1"]
    assert items_of(tmp_path / "in", limit=1) == [Item(str(tmp_path / "in" / "a" / "1.JPG"), "a/1")]
    assert [item.stem for item in items_of(tmp_path / "in" / "b" / "1.jpg")] == ["1"]
    lines = "in/b/1.jpg\n\nin/a/1.JPG \r\nin/b/1.jpg\n/elsewhere/ä.png\ns3://bucket/key/2.png\n"
    (tmp_path / "list.txt").write_text(lines)
    assert items_of(tmp_path / "list.txt") == [
        Item(f"{tmp_path}/in/b/1.jpg", "in/b/1"),
        Item(f"{tmp_path}/in/a/1.JPG", "in/a/1"),
        Item("/elsewhere/ä.png", "elsewhere/ä"),
        Item("s3://bucket/key/2.png", "bucket/key/2"),
    ]


def test_lists_of_other_programs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_bytes(
        b"\xef\xbb\xbfa/1.jpg\r\n./a/1.jpg\r\n\r\na//1.jpg\r\na/../a/1.jpg\r\nb/1.jpg\x0c2.jpg\r\n"
    )
    names = [item.source for item in items_of("list.txt")]
    assert names == ["a/1.jpg", "a/../a/1.jpg", "b/1.jpg\x0c2.jpg"]  # where a is a link, .. is elsewhere
    Path("wide.txt").write_bytes("a/1.jpg\nb/1.jpg\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"^--input wide\.txt: expected a list in UTF-8, a path on each line"):
        items_of("wide.txt")


def test_results_that_a_link_leads_to_are_no_inputs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "work")
    for name in ("in/1.jpg", "work/out/1_age20.jpg", "work/out/sub/2_age20.jpg", "work/outer/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    config = BatchConfig(input=str(tmp_path / "in"), output=str(tmp_path / "work" / "out"))
    assert [item.stem for item in all_items(config, nothing)] == ["1", "link/outer/3"]


def test_a_table_is_an_input(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: requirements-ray.txt")
    from pyarrow import parquet

    table = pa.table({"path": ["a/1.jpg", "2.jpg"], "file": ["3.jpg", None], "age": [1, 2]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert items_of(tmp_path / "t.parquet") == [Item(f"{tmp_path}/a/1.jpg", "a/1"), Item(f"{tmp_path}/2.jpg", "2")]
    with pytest.raises(UserError, match=r"^--column name: not in .*t\.parquet; its columns are path, file, age$"):
        items_of(tmp_path / "t.parquet", column="name")
    with pytest.raises(UserError, match=r"^--column age: holds no paths"):
        items_of(tmp_path / "t.parquet", column="age")
    said: list[str] = []
    config = BatchConfig(input=str(tmp_path / "t.parquet"), output=str(tmp_path / "out"), column="file")
    assert all_items(config, said.append) == [Item(f"{tmp_path}/3.jpg", "3")]
    assert said == ["1 line without a path left out"]
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"t\.parquet: not read as Parquet"):
        items_of(tmp_path / "t.parquet")


def test_object_stores_are_read_listed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: requirements-ray.txt")
    asked = []

    def opened(root: str, query: str) -> tuple[object, str]:
        asked.append((root, query))
        return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket"

    monkeypatch.setattr(storage, "_store", opened)
    for name in ("in/a/1 #2.jpg", "in/b.png", "in/c.txt"):
        (tmp_path / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bucket" / name).write_bytes(name.encode())
    (tmp_path / "bucket" / "out").mkdir()
    found = items_of("s3://bucket/in?region=eu-west-1")
    assert [item.stem for item in found] == ["a/1 #2", "b"]
    assert storage.read(found[0].source) == b"in/a/1 #2.jpg"
    storage.write(storage.joined("s3://bucket/out?region=eu-west-1", "x_age20.png"), b"20")
    assert (tmp_path / "bucket" / "out" / "x_age20.png").read_bytes() == b"20"
    assert list(storage.below("s3://bucket/out")) == ["x_age20.png"]
    assert list(storage.below("s3://bucket/none")) == []
    assert set(asked) == {("s3://bucket", "region=eu-west-1"), ("s3://bucket", "")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--output o", "--input: required; expected the pictures"),
        ("--input i", "--output: required; expected the folder of the results"),
        ("--input i --output o --workers -1", "--workers -1: must be at least 0"),
        ("--input i --output o --target_age 200", "--target_age 200: must be numbers, each from 0 to 120"),
        ("--input i --output o --aligned --face 2", "--face 2: must be all for aligned pictures"),
    ],
)
def test_wrong_flags_are_reported_in_a_line(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch_command.main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == 1


def test_inputs_without_pictures_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder; check the name"):
        items_of(tmp_path / "none")
    with pytest.raises(UserError, match="no pictures in it"):
        items_of(tmp_path)
    for output in (tmp_path / "in" / "out", tmp_path / "in"):
        with pytest.raises(UserError, match="must be outside the folder of --input"):
            check_output(BatchConfig(input=f"{tmp_path}/in", output=str(output)))
    check_output(BatchConfig(input=f"{tmp_path}/in", output=f"{tmp_path}/in2"))


def test_what_is_there_at_every_age_is_left_out() -> None:
    items = [Item(f"{name}.jpg", name) for name in ("all", "one", "twice", "none", "d/all")]
    there = ["all_age20.png", "all_age45.5.jpg", "one_age20.png", "one_age30.png", "twice_age20.png", "twice_age20.jpg"]
    there += ["d/all_age20.png", "d/all_age45.5.png", ".none_age20.png.7.part", "failures.csv"]
    assert [item.stem for item in to_do(items, AGES, there)] == ["one", "twice", "none"]


def test_crops_come_out_as_one_alone_would(tiny_faces: Path, weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i, path in enumerate(sorted(tiny_faces.rglob("*.jpg"))[:5]):
        (source / f"{i}.jpg").write_bytes(path.read_bytes())
    (source / "broken.jpg").write_bytes(b"x")
    items = [*items_of(source), Item(f"{source}/gone.jpg", "gone")]
    output = tmp_path / "out"
    render = Renderer(
        weights=weights, config=InferConfig(aligned=True, batch_size=3), ages=AGES, output=str(output), threads=2
    )
    reports = {report.stem: report for report in render(items)}
    assert {stem: (r.pictures, r.cause) for stem, r in reports.items()} == {
        **{str(i): (2, "") for i in range(5)},
        "broken": (0, "not a picture"),
        "gone": (0, "No such file or directory"),
    }
    assert len(list(output.iterdir())) == 10
    ager = Ager.load(weights)
    for i in range(5):
        for years in AGES:
            with Image.open(output / f"{i}_age{years:g}.png") as aged:
                alone = np.asarray(ager.age(source / f"{i}.jpg", years), int)
                assert np.abs(np.asarray(aged, int) - alone).max() <= 1


def test_photographs_keep_their_form_and_have_their_faces_aged(weights: Path, tmp_path: Path) -> None:
    Image.fromarray(astronaut()).resize((256, 256)).save(tmp_path / "ann.webp", lossless=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "empty.png")
    output = tmp_path / "out"
    render = Renderer(weights=weights, config=InferConfig(input=Path("x")), ages=[60], output=str(output))
    names = [Item(f"{tmp_path}/{name}", name.partition(".")[0]) for name in ("ann.webp", "empty.png")]
    done, failed = render(names)
    assert (done.stem, done.pictures, failed.stem, failed.pictures) == ("ann", 1, "empty", 0)
    assert "face" in failed.cause
    assert [path.name for path in output.iterdir()] == ["ann_age60.webp"]
    aged = Photo.read(output / "ann_age60.webp").stored
    alone = np.asarray(Ager.load(weights).age_photo(tmp_path / "ann.webp", 60))
    assert np.array_equal(aged, alone) and not np.array_equal(aged, Photo.read(tmp_path / "ann.webp").stored)


def test_one_item_that_breaks_the_work_takes_no_other_with_it(
    tiny_faces: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item(str(path), path.stem) for path in sorted(tiny_faces.rglob("*.jpg"))[:3]]
    render = Renderer(weights=weights, config=InferConfig(aligned=True), ages=AGES, output=str(tmp_path))
    original = Engine.age_letterboxed

    def age_letterboxed(self: Engine, faces: Sequence[object], *rest: object) -> object:
        if any(np.array_equal(face.square, poison) for face in faces):  # type: ignore[attr-defined]
            raise RuntimeError("out of memory\nand more")
        return original(self, faces, *rest)  # type: ignore[arg-type]

    poison = Ager.load(weights).letterbox(Image.open(items[1].source)).square
    monkeypatch.setattr(Engine, "age_letterboxed", age_letterboxed)
    causes = {report.stem: report.cause for report in render(items)}
    assert causes == {items[0].stem: "", items[1].stem: "RuntimeError: out of memory", items[2].stem: ""}


def test_an_output_that_takes_no_files_ends_the_run(tiny_faces: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    items = [Item(str(path), path.stem) for path in sorted(tiny_faces.rglob("*.jpg"))[:3]]
    config = InferConfig(aligned=True)
    with pytest.raises(Unwritable):
        Renderer(weights=weights, config=config, ages=AGES, output=f"{tmp_path}/out")(items)
    block = {"source": [os.fsencode(i.source) for i in items], "stem": [os.fsencode(i.stem) for i in items]}
    out = Worker(weights, config, AGES, f"{tmp_path}/out", 1)(block)
    assert all(b"out: cannot be written (" in fault for fault in out["fault"])  # type: ignore[operator]
    out = Worker(tmp_path / "none.safetensors", config, AGES, str(tmp_path), 1)(block)
    assert b"none.safetensors" in out["fault"][0]  # type: ignore[operator]


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as f:
        return list(csv.reader(f))


def collected(
    tmp_path: Path, reports: Callable[[Sequence[Item], int], Iterator[Report]]
) -> tuple[tuple[int, int, float], list[list[str]]]:
    items = [Item(f"{i}.jpg", str(i)) for i in range(4)]
    failures = Failures(f"{tmp_path}/failures.csv")
    done = batch_run._collect(items, reports, failures)
    return done, table(tmp_path / "failures.csv")


def test_items_of_lost_tasks_are_tried_alone_and_failures_are_listed(tmp_path: Path) -> None:
    tried = []

    def reports(items: Sequence[Item], block: int) -> Iterator[Report]:
        tried.append(([item.stem for item in items], block == 1))
        for item in items:
            if item.stem == "0":
                yield Report("0", cause='no "face", found')
            elif item.stem == "1" or (block == 1 and item.stem == "2"):
                yield Report(item.stem, 2)
                yield Report(item.stem, 2)  # as a task that was done twice gives it

    (done, written, _), rows = collected(tmp_path, reports)
    assert tried == [(["0", "1", "2", "3"], False), (["2", "3"], True)]
    assert (done, written) == (2, 4)
    assert rows == [["file", "cause"], ["0.jpg", 'no "face", found'], ["3.jpg", "its process died 3 times"]]


def test_failures_are_listed_when_a_run_is_interrupted(tmp_path: Path) -> None:
    def reports(items: Sequence[Item], block: int) -> Iterator[Report]:
        yield Report("2", cause="not a picture")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collected(tmp_path, reports)
    assert (tmp_path / "failures.csv").read_text() == "file,cause\n2.jpg,not a picture\n"


def test_a_missing_ray_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    flags = ["--output", str(tmp_path / "o"), "--aligned", "--input"]
    with pytest.raises(UserError, match=r"^ray\[data\]: not installed; run python -m pip install -r requirements-ray"):
        batch_run.run(parse_batch([*flags, str(tmp_path / "a.png")]), nothing)
    with pytest.raises(UserError, match=r"^--input .*gone"):  # which is told first
        batch_run.run(parse_batch([*flags, str(tmp_path / "gone")]), nothing)


def processes(root: int) -> dict[int, str]:
    """The process and all that it started: number -> command line."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {root}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    lines = {}
    for pid in found:
        try:
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return lines


def listening(pids: Sequence[int]) -> set[str]:
    """Addresses, in hexadecimal, that processes listen on."""
    sockets = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(str(path.readlink()))
            except OSError:
                continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}


PICTURES = 1200


class Run:
    """A folder of made-up crops, and the command on them as a process of its own."""

    def __init__(self, faces: Path, weights: Path, root: Path) -> None:
        if sys.platform != "linux":
            pytest.skip("looks for processes in /proc")
        pytest.importorskip("ray.data", reason="ray[data] is not installed: requirements-ray.txt")
        self.input, self.output, drawn = root / "in", root / "out", sorted(faces.rglob("*.jpg"))
        for i in range(PICTURES):
            link = self.input / f"{i % 3}" / f"{i:04d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(drawn[i % len(drawn)])
        self.items = items_of(self.input)
        words = ["--input", str(self.input), "--output", str(self.output), "--target_age", "20", "60", "--aligned"]
        self.command = [sys.executable, "batch.py", *words, "--weights", str(weights), "--workers", "2"]

    def pictures(self) -> list[Path]:
        return list(self.output.rglob("*_age*.png"))

    def start(self, until: int) -> "subprocess.Popen[str]":
        """Start the command and wait until there are so many pictures."""
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(self.command, cwd=PROJECT, env=environment, text=True, **pipe)  # type: ignore[call-overload]
        last = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < last and len(self.pictures()) < until:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
        return process  # type: ignore[no-any-return]


def test_a_killed_command_leaves_whole_pictures_and_no_process(tiny_faces: Path, weights: Path, tmp_path: Path) -> None:
    run = Run(tiny_faces, weights, tmp_path)
    process = run.start(200)
    mine = processes(process.pid)
    ports = listening(list(mine))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    last = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid, line in mine.items() if "Worker" in line):
        assert time.monotonic() < last, "workers outlive the command"
        time.sleep(0.2)
    assert ports and ports <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 alone
    assert 200 <= len(run.pictures()) < 2 * PICTURES
    for path in run.pictures():
        with Image.open(path) as picture:
            picture.load()
    assert 0 < len(to_do(run.items, [20, 60], storage.below(str(run.output)))) <= PICTURES - 100


def test_a_killed_worker_loses_nothing_and_the_command_resumes(tiny_faces: Path, weights: Path, tmp_path: Path) -> None:
    run, plain = Run(tiny_faces, weights, tmp_path), tmp_path / "plain"
    render = {"weights": weights, "config": InferConfig(aligned=True), "ages": [20, 60]}
    Renderer(output=str(run.output), **render)(run.items[:100])  # type: ignore[arg-type]
    kept = {path: path.stat().st_mtime_ns for path in run.pictures()}
    (run.input / "0" / "broken.jpg").write_bytes(b"x")
    (run.output / ".half.png.1.part").touch()
    process = run.start(len(kept) + 200)
    workers = [pid for pid, line in processes(process.pid).items() if "MapWorker" in line]
    assert len(workers) == 2 and len(run.pictures()) < 2 * PICTURES
    os.kill(workers[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert "logging.cc" not in said
    assert "100 pictures done already" in said and "1 file failed" in said and "pictures/s" in said
    assert table(run.output / "failures.csv") == [["file", "cause"], [f"{run.input}/0/broken.jpg", "not a picture"]]
    assert [path for path, written in kept.items() if path.stat().st_mtime_ns != written] == []
    assert list(run.output.rglob("*.part")) == []
    Renderer(output=str(plain), **render)(run.items)  # type: ignore[arg-type]
    wanted = sorted(path.relative_to(plain) for path in plain.rglob("*.png"))
    assert len(wanted) == 2 * PICTURES and wanted == sorted(path.relative_to(run.output) for path in run.pictures())
    for name in wanted:
        both = (np.asarray(Image.open(folder / name), int) for folder in (run.output, plain))
        assert np.abs(np.subtract(*both)).max() <= 1
