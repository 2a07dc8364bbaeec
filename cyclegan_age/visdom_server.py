"""The local Visdom server: `python -m cyclegan_age.visdom_server`, which `make visdom` calls.

Environment variables: VISDOM_PORT (8097), VISDOM_ENV (results/.visdom, folder of saved pages) and VISDOM_HOST
(127.0.0.1; in a container 0.0.0.0). The page needs scripts that Visdom does not contain. They are fetched once, from
npm or else by Visdom's own download.
"""

import asyncio
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from cyclegan_age.config import INSTALL_VISDOM, UserError, needs

logger = logging.getLogger("cyclegan_age")

_VISDOM = importlib.util.find_spec("visdom")
STATIC = Path(_VISDOM.origin if _VISDOM and _VISDOM.origin else "").parent / "static"
NPM_SECONDS = DOWNLOAD_SECONDS = 180

# npm package -> {its file: the name that visdom.server.build.download_scripts gives it}
ASSETS = {
    "jquery@3.1.1": {"dist/jquery.min.js": "js/jquery.min.js"},
    "bootstrap@3.3.7": {
        "dist/js/bootstrap.min.js": "js/bootstrap.min.js",
        "dist/css/bootstrap.min.css": "css/bootstrap.min.css",
        "dist/fonts/glyphicons-halflings-regular.eot": "fonts/glyphicons-halflings-regular.eot",
        "dist/fonts/glyphicons-halflings-regular.woff2": "fonts/glyphicons-halflings-regular.woff2",
        "dist/fonts/glyphicons-halflings-regular.woff": "fonts/glyphicons-halflings-regular.woff",
        "dist/fonts/glyphicons-halflings-regular.ttf": "fonts/glyphicons-halflings-regular.ttf",
        "dist/fonts/glyphicons-halflings-regular.svg": (
            "fonts/glyphicons-halflings-regular.svg#glyphicons_halflingsregular"
        ),
    },
    "react@16.2.0": {"umd/react.production.min.js": "js/react-react.min.js"},
    "react-dom@16.2.0": {"umd/react-dom.production.min.js": "js/react-dom.min.js"},
    "react-modal@3.1.10": {"dist/react-modal.min.js": "js/react-modal.min.js"},
    "plotly.js-dist-min@2.11.1": {"plotly.min.js": "js/plotly-plotly.min.js"},
    "sjcl@1.0.7": {"sjcl.js": "js/sjcl.js"},
    "layout-bin-packer@1.4.0": {
        "dist/layout-bin-packer.js": "js/layout_bin_packer.js",
        "dist/layout-bin-packer.js.map": "js/layout-bin-packer.js.map",
    },
    "d3@3.5.17": {"d3.min.js": "js/d3.v3.min.js"},
    "d3-selection-multi@1.0.1": {"build/d3-selection-multi.js": "js/d3-selection-multi.v1.js"},
    "save-svg-as-png@1.4.17": {"lib/saveSvgAsPng.js": "js/saveSvgAsPng.js"},
    "react-resizable@1.4.6": {"css/styles.css": "css/react-resizable-styles.css"},
    "react-grid-layout@0.16.3": {"css/styles.css": "css/react-grid-layout-styles.css"},
    "classnames@2.2.5": {"index.js": "fonts/classnames"},
}
# MathJax renders TeX, which no page here uses: empty files satisfy the browser and prevent a download.
STUBS = tuple(
    f"js/mathjax/2.7.5/{name}"
    for name in (
        "config/Safe.js",
        "config/TeX-AMS-MML_HTMLorMML.js",
        "extensions/Safe.js",
        "jax/output/SVG/fonts/TeX/fontdata.js",
        "jax/output/SVG/jax.js",
        "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",
        "jax/output/SVG/config.js",
        "MathJax.js",
    )
)


def missing_assets(static: Path = STATIC) -> list[str]:
    """Missing files of the page, relative to Visdom's static folder."""
    return [name for files in ASSETS.values() for name in files.values() if not (static / name).is_file()]


def build_assets(static: Path = STATIC) -> None:
    """Fetch the page's missing files, once.

    Raises:
        UserError: neither npm nor the internet is available, or the folder is not writable.
    """
    if not missing_assets(static):
        return
    try:
        if shutil.which("npm"):
            _npm_pack(static)
        if missing_assets(static) and static == STATIC:
            logger.info("fetching the page's scripts by Visdom's own download, once")
            _run([sys.executable, "-c", "from visdom.server.build import download_scripts as d; d()"], DOWNLOAD_SECONDS)
        for name in STUBS:
            (static / name).parent.mkdir(parents=True, exist_ok=True)
            (static / name).touch()
        if missing := missing_assets(static):
            raise UserError(
                f"Visdom's page: {len(missing)} scripts such as {missing[0]} could be fetched neither from npm nor "
                "from the internet; install npm or connect, then try again"
            )
        (static / "version.built").write_text((STATIC.parent / "VERSION").read_text())
    except PermissionError as error:
        raise UserError(f"{error.filename}: not writable; install this package in a writable place") from None


def _npm_pack(static: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for i, (package, files) in enumerate(ASSETS.items(), 1):
            logger.info("fetching the page's scripts, once: %d of %d, %s", i, len(ASSETS), package)
            if not _run(["npm", "pack", "--silent", "--pack-destination", folder, package], NPM_SECONDS, folder):
                return
            archive = Path(folder) / f"{package.replace('@', '-')}.tgz"
            with tarfile.open(archive) as tar:
                for member, name in files.items():
                    content = tar.extractfile(f"package/{member}")
                    if content is None:
                        return
                    (static / name).parent.mkdir(parents=True, exist_ok=True)
                    part = static / f"{name}.part"
                    part.write_bytes(content.read())
                    part.replace(static / name)


def _run(command: list[str], seconds: float, folder: str | None = None) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, timeout=seconds, capture_output=True, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def start(port: int, env_dir: Path, host: str = "127.0.0.1") -> None:
    """Serve until Ctrl-C or SIGTERM; then save all environments.

    Args:
        port: a free port.
        host: address to listen on. There is no login: everyone who reaches it may draw and read.
        env_dir: folder of saved environments; created if needed.

    Raises:
        UserError: Visdom or the page's scripts are missing, the port is taken or the folder is not writable.
    """
    with needs("visdom", install=INSTALL_VISDOM):
        from tornado.httpserver import HTTPServer
        from visdom.server.app import Application, tornado_settings
        from visdom.utils.server_utils import serialize_all

    build_assets()
    tornado_settings["autoreload"] = False  # else a changed source file restarts the server
    try:
        env_dir.mkdir(parents=True, exist_ok=True)
        app = Application(port=port, env_path=str(env_dir), eager_data_loading=True)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise UserError(f"VISDOM_ENV {env_dir}: must be a writable folder ({error.strerror})") from None

    try:
        listening = socket.create_server((host, port))
    except OSError:
        raise UserError(f"VISDOM_PORT {port}: must be a free port of {host}") from None
    listening.setblocking(False)

    async def serve() -> None:
        HTTPServer(app, max_buffer_size=1024**3).add_socket(listening)
        logger.info("Visdom: http://%s:%d (Ctrl-C stops it)", host, port)
        await asyncio.Event().wait()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        serialize_all(app.state, env_path=str(env_dir))  # type: ignore[no-untyped-call]
        logger.info("Visdom: stopped, pages saved in %s", env_dir)


def main() -> int:
    """Run the server with the settings in environment variables; returns the exit status."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tornado.general").setLevel(logging.ERROR)  # it warns of a missing style sheet
    logger.setLevel(logging.INFO)
    port = os.environ.get("VISDOM_PORT") or "8097"
    try:
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"VISDOM_PORT {port}: not a port; expected a number such as 8097")
        env_dir = Path(os.environ.get("VISDOM_ENV") or "results/.visdom")
        start(int(port), env_dir, os.environ.get("VISDOM_HOST") or "127.0.0.1")
    except UserError as error:
        logger.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
