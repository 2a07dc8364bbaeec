"""The page to confirm or correct estimated labels by keyboard; `prepare.py label FOLDER --page`."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from cyclegan_age.config import LabelConfig
from cyclegan_age.images import BadImage, open_image
from cyclegan_age.labeler.estimates import GROUPS
from cyclegan_age.labeler.run import held, labelled
from cyclegan_age.labeler.table import BAD, ESTIMATED, Face, Labels
from cyclegan_age.web.gate import Gate
from cyclegan_age.web.markup import data_url, script
from cyclegan_age.web.server import listen, mount

HOST = "127.0.0.1"
TITLE = "Labels of faces"
_SIDE = 384  # greatest side in pixels of a face on the page
_MOST = 100_000  # bytes of a message of the page
_SECONDS = 60.0  # for sending one

_GROUPS = "".join(
    f'<button type="button" data-key="{digit}"><kbd>{digit}</kbd> {group}</button>'
    for digit, group in enumerate(GROUPS)
)
_TEMPLATE = f"""<div class="labeler">
<p class="line" role="status" aria-live="polite"></p>
<progress max="1" value="0" aria-label="Share of the faces that are done"></progress>
<div class="one"><figure><img alt=""><figcaption></figcaption></figure><div class="keys">
<p class="now"><strong class="label"></strong> <span class="guess"></span></p>
<div role="group" aria-label="Age group" class="groups">{_GROUPS}</div>
<div role="group" aria-label="Age in years"><button type="button" data-key="ArrowUp"><kbd>↑</kbd> a year older</button>
<button type="button" data-key="ArrowDown"><kbd>↓</kbd> a year younger</button></div>
<div role="group" aria-label="Sex" class="sexes"><button type="button" data-key="f"><kbd>F</kbd> female</button>
<button type="button" data-key="m"><kbd>M</kbd> male</button>
<button type="button" data-key="u"><kbd>U</kbd> unknown</button></div>
<div role="group" aria-label="Answer"><button type="button" data-key="Enter"><kbd>Enter</kbd> confirm</button>
<button type="button" data-key="b"><kbd>B</kbd> back</button>
<button type="button" data-key="s"><kbd>S</kbd> skip</button>
<button type="button" data-key="x"><kbd>X</kbd> bad picture</button></div></div></div></div>"""
_CSS = """
.labeler .one { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.labeler figure { margin: 0; width: 20rem; max-width: 100%; }
.labeler img { width: 100%; aspect-ratio: 1; object-fit: contain; margin: 0; border-radius: 8px; background: #8883; }
.labeler figcaption { font-size: 0.85rem; overflow-wrap: anywhere; }
.labeler .keys { flex: 1 1 22rem; display: grid; gap: 0.8rem; align-content: start; }
.labeler p { margin: 0.25rem 0; }
.labeler p.wrong { font-weight: 600; color: #c2410c; }
.labeler .label { font-size: 1.5rem; }
.labeler progress { width: 100%; margin-bottom: 0.75rem; }
.labeler button { padding: 0.45rem 0.7rem; margin: 0 0.25rem 0.35rem 0; border-radius: 8px; cursor: pointer;
  border: 2px solid var(--border-color-primary); background: var(--button-secondary-background-fill);
  color: var(--button-secondary-text-color); }
.gradio-container .labeler button[aria-pressed=true], .gradio-container .labeler button[aria-pressed=true] kbd {
  background: var(--primary-700); color: white; }
.labeler button:focus-visible { outline: 3px solid var(--primary-600); outline-offset: 2px; }
.labeler kbd { font-family: var(--font-mono); opacity: 0.75; }
"""


def run(config: LabelConfig, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; see `serve_labels`."""
    with held(config):
        labels = labelled(config, say)
        listen(HOST, config.port, lambda: application(labels, config.port), say)


def application(labels: Labels, port: int) -> Gate:
    """The whole application."""
    app = FastAPI(openapi_url=None)

    @app.post("/api/answer")  # and not Gradio's queue, which would take half a second a face
    def answer(said: dict[str, Any]) -> dict[str, Any]:
        return answered(labels, said)

    mount(app, build(), HOST, port)
    return Gate(_Own(app, port), _MOST, 8 * _MOST, _SECONDS)


class _Own:
    """ASGI middleware that refuses requests from pages of other sites, which could change labels."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
        origin = headers.get(b"origin", "")
        own = headers.get(b"host") in self._hosts and (not origin or origin.partition("://")[2] in self._hosts)
        if scope["type"] == "http" and not own:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"must come from a page of this address"})
            return
        await self._app(scope, receive, send)


def build() -> Any:
    """The page as Gradio's Blocks, to be mounted."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.HTML(f"<style>{_CSS}</style><h1>{TITLE}</h1>", elem_classes="page")
        gr.HTML(html_template=_TEMPLATE, js_on_load=script("labels"))
    return blocks


def answered(labels: Labels, said: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a message of the page; returns the next face.

    Args:
        labels: of the folder.
        said: `do`, which is confirm, bad, skip or back; the `file` that the page shows, missing at first; for confirm
            `age` and `sex`.
    """
    file, do = str(said.get("file", "")), said.get("do")
    try:
        if do == "confirm":
            labels.answer(file, int(said["age"]), int(said["sex"]))
        elif do == "bad":
            labels.leave_out(file)
        elif do == "back":
            return shown(labels, labels.before(file))
    except OSError as e:
        return {**shown(labels, labels.faces[file]), "wrong": f"Not saved: {e.strerror or e}."}
    except (KeyError, TypeError, ValueError):
        return {**shown(labels, labels.faces.get(file) or labels.next()), "wrong": "Invalid message."}
    return shown(labels, labels.next(file))


def shown(labels: Labels, face: Face | None) -> dict[str, Any]:
    """The values that labels.js shows; without a face all are done."""
    count = {"done": len(labels.faces) - labels.waiting, "total": len(labels.faces)}
    if face is None:
        return {**count, "file": ""}
    one = face.estimate
    sex = {0: "male", 1: "female"}.get(one.sex, "")
    guess = f"estimated {one.age} years, group {one.age_confidence:.0%} likely"
    guess += f"; {sex}, {one.sex_confidence:.0%} likely" if sex else "; sex not estimated"
    data, kind = b"", "image/jpeg"
    try:
        picture = open_image(labels.folder / face.file)
        picture.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=90)
        data = out.getvalue()
    except (BadImage, OSError):
        guess = "The picture cannot be read any more."
    state = {BAD: "left out as a bad picture", ESTIMATED: "not confirmed yet"}.get(face.state, face.state)
    own = {"file": face.file, "age": face.age, "sex": face.sex, "state": state, "guess": guess}
    return {**count, **own, "estimate": [one.age, one.sex], "picture": data_url(data, kind) if data else ""}
