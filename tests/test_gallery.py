"""From files to the gallery, by `render_all` and by the command line."""

import runpy
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import test as test_command
from cyclegan_age import weight_files
from cyclegan_age.config import CycleGANConfig, InferConfig, TrainConfig, UserError
from cyclegan_age.inference import Ager
from cyclegan_age.inference.engine import Engine
from cyclegan_age.models import cyclegan
from cyclegan_age.rendering import crops, pictures
from cyclegan_age.rendering import page as pages_of
from cyclegan_age.rendering.gallery import render_all
from cyclegan_age.rendering.sources import output_stems

PROJECT = Path(__file__).resolve().parent.parent
AGES = (10, 20, 40)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    train, net = TrainConfig(image_size=32, load_size=32, ages=AGES), CycleGANConfig(ngf=4, blocks=3)
    generator = cyclegan.build_generator(train, net)
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weight_files.save_weights(path, train, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    return path


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Callable[..., tuple[Path, list[str]]]:
    def run(**settings: object) -> tuple[Path, list[str]]:
        said: list[str] = []
        settings = {
            "aligned": "input" in settings,
            "weights": str(weights),
            "results_dir": tmp_path / "results",
        } | settings
        return render_all(InferConfig(**settings), said.append), said  # type: ignore[arg-type]

    return run


def picture(path: Path, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


class Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [unquote(value or "") for name, value in attrs if name in ("href", "src")]


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_keeps_names_sizes_and_order(run: Callable[..., tuple[Path, list[str]]], tmp_path: Path) -> None:
    source = tmp_path / "in"
    sizes = {
        "a.jpg": (20, 20), "a.png": (9, 31), "sub/a.png": (50, 40),
        "<script>alert('x')</script>.png".replace("/", "\u2215"): (16, 16), "# 50%25 é \"q\" ?.png": (5, 5),
    }  # fmt: skip
    for name, size in sizes.items():
        picture(source / name, size)
    picture(source / "grey.png", (12, 12), "L")
    (source / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    (source / "empty.png").write_bytes(b"")
    (source / "notes.txt").write_text("no picture")
    page, said = run(input=source, batch_size=4)
    folder = page.parent
    assert folder == tmp_path / "results" / "test-001"

    stems = ["a", "a-2", "sub/a", "<script>alert('x')<\u2215script>", '# 50%25 é "q" ?', "grey"]
    for stem, size in zip(stems, [*sizes.values(), (12, 12)], strict=True):
        for years in AGES:
            with Image.open(folder / f"{stem}_age{years}.png") as aged:
                assert (aged.size, aged.mode) == (size, "RGB")
        assert (folder / f"{stem}_strip.png").is_file()
    assert len(files(folder)) == 6 * (1 + 3 + 1) + 1

    links = Links(page)
    assert set(links.found) == files(folder) - {"index.html"}
    assert "script" not in links.tags
    assert any("broken.jpg" in line for line in said)
    assert any("empty.png: empty file" in line for line in said)
    assert any(line.startswith("18 pictures of 6 faces") and "images/s; 2 files skipped" in line for line in said)
    text = page.read_text(encoding="utf-8")
    assert "18 pictures of 6 faces" in text
    assert "tiny.safetensors" in text


def test_batches_across_faces_equal_the_facade(
    run: Callable[..., tuple[Path, list[str]]], tmp_path: Path, weights: Path
) -> None:
    for i in range(5):
        picture(tmp_path / "in" / f"face{i}x{'y' * i}.png", (16 + 9 * i, 20))
    page, _ = run(input=tmp_path / "in", target_age=(33.5, 10.0, 33.5), batch_size=3)
    ager = Ager.load(weights)
    for path in (tmp_path / "in").iterdir():
        for years in ("33.5", "10"):
            aged = np.asarray(Image.open(page.parent / f"{path.stem}_age{years}.png"))
            assert abs(aged.astype(int) - np.asarray(ager.age(Image.open(path), float(years)))).max() <= 1


def test_dataroot_and_limit(run: Callable[..., tuple[Path, list[str]]], tiny_faces: Path) -> None:
    page, said = run(dataroot=tiny_faces, target_age=(20,), limit=6)
    assert (page.parent / "10-14" / "10_0_0_drawn0_age20.png").is_file()
    assert said[-2].startswith("6 pictures of 6 faces")


def test_features_and_life(run: Callable[..., tuple[Path, list[str]]], tmp_path: Path) -> None:
    source = picture(tmp_path / "me.png", (31, 21))
    page, _ = run(input=source, features=("stem", "blocks.1.conv1"), life=True)
    assert set(Links(page).found) == files(page.parent) - {"index.html"}
    for ending in ("change", "features-stem", "ages-stem", "features-blocks.1.conv1", "ages-blocks.1.conv1"):
        with Image.open(page.parent / f"me_{ending}.png") as sheet:
            assert min(sheet.size) >= 21
    count = 12 + 24 + 1
    with Image.open(page.parent / "me_life.gif") as gif:
        assert (gif.n_frames, gif.size) == (count, (31, 21))
    with av.open(str(page.parent / "me_life.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == count


def test_layers_are_listed_without_rendering(run: Callable[..., tuple[Path, list[str]]], tmp_path: Path) -> None:
    place, said = run(features=("list",))
    assert said == ["layers: stem down1 down2 join blocks.0 blocks.1 blocks.2 up1 up2 head"]
    assert place == tmp_path / "results"
    assert not place.exists()


def test_without_input_the_portrait_is_aged(run: Callable[..., tuple[Path, list[str]]]) -> None:
    page, said = run(target_age=(75,))
    with Image.open(page.parent / "portrait_age75.png") as aged:
        assert aged.size == (256, 256)
    assert any("75" in line and "10 to 40" in line for line in said)


def test_the_same_command_replaces_its_files(run: Callable[..., tuple[Path, list[str]]], tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    page, _ = run(input=tmp_path / "in", name="mine")
    (page.parent / ".1-2.part").write_bytes(b"left by a killed run")
    (page.parent / "a_age10.png").write_bytes(b"")
    before = files(page.parent) - {".1-2.part"}
    again, _ = run(input=tmp_path / "in", name="mine")
    assert again == page == tmp_path / "results" / "mine" / "index.html"
    assert files(page.parent) == before
    Image.open(page.parent / "a_age10.png").load()


@pytest.mark.parametrize(("years", "lines"), [({"a": 3, "b": 30}, 1), ({"a": 3, "b": 80}, 1), ({"b": 30}, 0)])
def test_ages_that_were_hardly_learned_are_said(
    run: Callable[..., tuple[Path, list[str]]], tmp_path: Path, years: dict[str, int], lines: int
) -> None:
    """In one line, and on the page with each face; by the age in the name."""
    for name, age in years.items():
        picture(tmp_path / "in" / f"{age}_1_0_{name}.png")
    page, said = run(input=tmp_path / "in", target_age=(20,))
    warned = [line for line in said if "cracks" in line]
    assert len(warned) == lines
    far = [age for age in years.values() if not 10 <= age <= 70]
    assert all("3_1_0_a.png: a face of about 3 years; under 10 and over 70" in line for line in warned)
    assert all(("2 such faces" in line) == (len(far) == 2) for line in warned)
    text = page.read_text(encoding="utf-8")
    assert text.count("renderings often have cracks") == len(far)


def test_ages_that_no_name_tells_are_estimated(
    run: Callable[..., tuple[Path, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "estimated_age", lambda image, frame: float(image.width))
    for side in (8, 20):
        picture(tmp_path / "in" / f"face{side}.png", (side, side))
    _, said = run(input=tmp_path / "in", target_age=(20,))
    assert [line.partition(";")[0] for line in said if "cracks" in line] == ["face8.png: a face of about 8 years"]


def test_what_an_interrupted_run_wrote_is_whole(
    run: Callable[..., tuple[Path, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        picture(tmp_path / "in" / f"{i:02d}.png")
    age_many, calls, before = Engine.age_many, [], threading.enumerate()

    def interrupted(*args: object) -> object:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return age_many(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "age_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(input=tmp_path / "in", name="cut", batch_size=3)
    folder = tmp_path / "results" / "cut"
    written = files(folder)
    assert "00_strip.png" in written
    assert "11_strip.png" not in written
    assert "index.html" not in written
    for name in written:
        Image.open(folder / name).load()
    assert not [t for t in set(threading.enumerate()) - set(before) if t.name.startswith("ThreadPoolExecutor")]
    monkeypatch.undo()
    page, _ = run(input=tmp_path / "in", name="cut", batch_size=3)
    assert len(files(page.parent)) == 12 * 5 + 1


def test_memory_stays_bounded(
    run: Callable[..., tuple[Path, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(60):
        picture(tmp_path / "in" / f"{i:02d}.png", (4, 4))
    opened, written, ahead = [0], [0], [0]
    open_image, save_jpg = crops.open_image, pictures.save_jpg

    def opening(path: Path) -> Image.Image:
        opened[0] += 1
        ahead.append(opened[0] - written[0])
        return open_image(path)

    def saving(*args: object, **kwargs: object) -> None:
        written[0] += 1
        save_jpg(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(crops, "open_image", opening)
    monkeypatch.setattr(pictures, "save_jpg", saving)
    run(input=tmp_path / "in", target_age=(20,), batch_size=4)
    assert opened == written == [60]
    assert max(ahead) < 30


def test_many_faces_are_spread_over_pages(
    run: Callable[..., tuple[Path, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_of, "FACES_PER_PAGE", 2)
    for i in range(5):
        picture(tmp_path / "in" / f"{i}.png")
    page, _ = run(input=tmp_path / "in", name="x")
    pages = ["index.html", "page-2.html", "page-3.html"]
    found = [set(Links(page.parent / name).found) for name in pages]
    assert set.union(*found) == files(page.parent)
    assert [sum("_strip" in link for link in links) for links in found] == [2, 2, 1]
    (tmp_path / "in" / "4.png").unlink()
    own = page.parent / "page-about.html"
    own.touch()
    run(input=tmp_path / "in", name="x")
    assert not (page.parent / "page-3.html").exists() and own.exists()


def test_a_closed_pipe_is_not_blamed_on_the_folder(weights: Path, tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    me = picture(tmp_path / "me.png")
    config = InferConfig(input=me, aligned=True, weights=str(weights), results_dir=tmp_path / "results")
    with pytest.raises(BrokenPipeError):
        render_all(config, say)


def test_output_stems() -> None:
    paths = [Path(p) for p in ("a.jpg", "A.png", "a-2.jpg", "a.b.jpg", "s/a.png", "n\nl.png", "\udcff.png")]
    assert output_stems(paths) == ["a", "A-2", "a-2-2", "a.b", "s/a", "n_l", "?"]
    long = output_stems([Path("顔" * 80 + ".png"), Path("顔" * 80 + ".jpg")])
    assert all(len(stem.encode()) <= 205 for stem in long)
    assert len(set(long)) == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"input": Path("no/where")}, "--input no/where: no such file"),
        ({"dataroot": Path("no/where")}, "--dataroot no/where"),
        ({"features": ("blocks.9",)}, "--features: layer 'blocks.9'"),
        ({"name": "../x"}, "--name ../x"),
    ],
)
def test_mistakes_are_told(run: Callable[..., tuple[Path, list[str]]], settings: dict[str, object], text: str) -> None:
    with pytest.raises(UserError) as e:
        run(**settings)
    assert str(e.value).startswith(text)
    assert "\n" not in str(e.value)


def test_folders_without_a_usable_picture_are_told(run: Callable[..., tuple[Path, list[str]]], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="no pictures in it"):
        run(input=tmp_path / "in")
    (tmp_path / "in" / "a.png").write_bytes(b"?")
    with pytest.raises(UserError, match="no usable picture; 1 file skipped"):
        run(input=tmp_path / "in")
    with pytest.raises(UserError, match=r"a\.png: not a picture; expected a picture of a face$"):
        run(input=tmp_path / "in" / "a.png")
    assert not list(tmp_path.rglob("test-*"))  # no empty folder is left


def test_results_that_cannot_be_written_are_told(run: Callable[..., tuple[Path, list[str]]], tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file in the way")
    with pytest.raises(
        UserError,
        match=r"--results_dir .*results: cannot be written \(.*\); grant permission, or choose another folder$",
    ):
        run(target_age=(20,))


@pytest.mark.parametrize(("weights", "more"), [("gan", {}), ("cyclegan", {"sample": 3})])
def test_weights_of_the_wrong_kind_are_named_with_their_flag(
    weights: str, more: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--weights", weights, "--aligned"] if not more else ["--weights", weights, "--sample", "3"]
    assert test_command.main([*flags, "--results_dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"--weights {weights}: must be weights ")
    assert not list(tmp_path.iterdir())  # no empty folder is left


def test_the_command_line(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(PROJECT / "test.py"))["main"]
    source = picture(tmp_path / "me.png")
    place = ["--weights", str(weights), "--results_dir", str(tmp_path / "out")]
    assert main([*place, "--aligned", "--input", str(source), "--target_age", "20", "35"]) == 0
    assert (tmp_path / "out" / "test-001" / "me_age35.png").is_file()
    assert str(tmp_path / "out" / "test-001" / "index.html") in capsys.readouterr().out
    for wrong in (["--input", "no/where"], ["--target_age", "old"], ["--batch_size", "0"], ["--weights", "no/where"]):
        assert main([*place, *wrong]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert wrong[0].lstrip("-").replace("_", "") in err.replace("_", "").replace("-", "")
