"""The page's scripts and the errors of the server's start; test_visdom_browser.py runs it."""

import io
import logging
import shutil
import socket
import tarfile
from pathlib import Path

import pytest

from cyclegan_age import visdom_server
from cyclegan_age.config import UserError
from cyclegan_age.visdom_server import ASSETS, build_assets, main, missing_assets


def fake_npm(commands: list[list[str]]) -> object:
    def run(command: list[str], seconds: float, folder: str | None = None) -> bool:
        commands.append(command)
        assert command[:2] == ["npm", "pack"]
        assert folder is not None
        package = command[-1]
        with tarfile.open(Path(folder) / f"{package.replace('@', '-')}.tgz", "w:gz") as tar:
            for member in ASSETS[package]:
                content = f"{package} {member}".encode()
                entry = tarfile.TarInfo(f"package/{member}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return True

    return run


def test_scripts_are_unpacked_to_the_names_that_visdom_serves_and_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cyclegan_age")
    commands: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(visdom_server, "_run", fake_npm(commands))
    build_assets(tmp_path)
    assert (tmp_path / "js/react-dom.min.js").read_text() == "react-dom@16.2.0 umd/react-dom.production.min.js"
    assert (tmp_path / "js/mathjax/2.7.5/MathJax.js").read_text() == ""
    assert (tmp_path / "version.built").is_file()
    assert f"{len(ASSETS)} of {len(ASSETS)}" in caplog.text, "progress is told"
    build_assets(tmp_path)
    assert len(commands) == len(ASSETS)


def test_names_are_those_of_visdom_s_own_download() -> None:
    """A newer Visdom that asks for other files is noticed here."""
    source = (visdom_server.STATIC.parent / "server/build.py").read_text()
    names = [name.rpartition("/")[2] for files in ASSETS.values() for name in files.values()]
    assert [name for name in names if f'"{name}"' not in source] == []
    assert source.count('% b: "') + source.count('% bb: "') + source.count('.js": "') <= len(names)


def test_without_npm_and_internet_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"^Visdom's page: 21 scripts such as js/jquery.min.js .*; install npm"):
        build_assets(tmp_path)
    assert len(missing_assets(tmp_path)) == 21
    assert not (tmp_path / "version.built").exists()


def test_bad_settings_end_with_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(visdom_server, "build_assets", lambda: None)
    monkeypatch.setenv("VISDOM_ENV", str(tmp_path / "env"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port, cause in (
            ("x", "not a port"),
            ("99999", "not a port"),
            (str(taken.getsockname()[1]), "must be a free port"),
        ):
            monkeypatch.setenv("VISDOM_PORT", port)
            caplog.clear()
            assert main() == 2
            assert [r.getMessage().partition(":")[0] for r in caplog.records] == [f"VISDOM_PORT {port}"]
            assert cause in caplog.text
