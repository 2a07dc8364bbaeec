"""A single-file page that ages faces in the browser, without a server: contains the ONNX model and onnxruntime-web."""

import base64
import gzip
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path

from cyclegan_age.config import UserError
from cyclegan_age.faces.frames import Frame
from cyclegan_age.inference import demo_portrait
from cyclegan_age.provenance import Mark, packet

_RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_TEMPLATE = Path(__file__).with_suffix(".html")


def check_runtime(folder: Path) -> Path:
    """The folder of onnxruntime-web's files: the npm package's, or its `dist`.

    Raises:
        UserError: they are missing.
    """
    for place in (folder / "dist", folder):
        if all((place / name).is_file() for name in _RUNTIME):
            return place
    raise UserError(f"--web_runtime {folder}: no onnxruntime-web; run npm install onnxruntime-web, or pass its folder")


def page(model: bytes, facts: Mapping[str, object], mark: Mark, runtime: Path) -> bytes:
    """The page, UTF-8.

    Args:
        model: an ONNX file by `export.graph`.
        facts: its metadata.
        mark: provenance of saved pictures, without the age.
        runtime: as returned by `check_runtime`.

    Raises:
        UserError: the model takes no ages.
    """
    if "anchors" not in facts:
        raise UserError("--output: must be an .onnx file for weights without ages")
    frame = Frame.of(str(facts["frame"]))
    example = io.BytesIO()
    demo_portrait(frame).save(example, "JPEG", quality=90)
    script, wasm = ((runtime / name).read_bytes() for name in _RUNTIME)
    text = _TEMPLATE.read_text(encoding="utf-8")
    for name, value in {
        "NAME": html.escape(mark.weights),
        "FACTS": _in_script({**facts, "eyes": frame.points[:2]}),
        "XMP": _in_script(packet(mark.of("@AGE@")).decode()),
        "EXAMPLE": "data:image/jpeg;base64," + base64.b64encode(example.getvalue()).decode(),
        "RUNTIME": _packed(script),
        "WASM": _packed(wasm),
        "MODEL": _packed(model),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()


def _in_script(value: object) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
