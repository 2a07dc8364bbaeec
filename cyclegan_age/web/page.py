"""The page: Gradio's blocks over the same worker as the REST service.

Pictures travel inside Gradio's messages, as data URLs: no file is written for them and no route serves files.
"""

from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio.events import api
from gradio.state_holder import SessionState, StateHolder

from cyclegan_age.config import DemoConfig
from cyclegan_age.inference import Ager
from cyclegan_age.web.handlers import Handlers, games, span
from cyclegan_age.web.limits import Worker
from cyclegan_age.web.markup import COMPARE, HEADER, LIMITS, MODELS, PICKER, TITLE, script
from cyclegan_age.web.work import Studio

_SESSIONS = 64  # pages whose faces are kept at the same time
_SECONDS_KEPT = 600  # that they are kept after the last use of the slider
_QUEUED = 32  # of the page's messages
_FONT = ["system-ui", "sans-serif"]


class _Session(SessionState):
    """Keeps what `gr.State` holds, until the page is closed, and not the values of components: those are pictures."""

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(blocks)
        self.STATE_TTL_WHEN_CLOSED = 0

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass  # they would serve Gradio's links to a page as it is filled in, which are closed


class Sessions(StateHolder):
    """The pages that are open, for a Gradio application whose `state_holder` it becomes."""

    def __getitem__(self, session_id: str) -> SessionState:
        """The session of this name, begun if it is new."""
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        return super().__getitem__(session_id)


def theme() -> Any:
    """Gradio's own look in the system's fonts, so that none is fetched, and in colours that can be read by all."""
    look = gr.themes.Default(
        primary_hue="orange", neutral_hue="zinc", font=_FONT, font_mono=["ui-monospace", "monospace"]
    )
    return look.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
    )


def build(studio: Studio, worker: Worker, config: DemoConfig) -> Any:
    """The page as Gradio's Blocks, to be mounted; `theme()` and page.css belong to it."""
    handlers = Handlers(studio, worker)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        parts = _layout(list(studio.agers), next(iter(studio.agers.values())), config)
        _connect(blocks, parts, handlers)
        api(handlers.age, api_name="age")
    blocks.queue(max_size=_QUEUED, default_concurrency_limit=None)
    blocks.state_session_capacity = _SESSIONS
    return blocks


def _layout(models: list[str], first: Ager, config: DemoConfig) -> SimpleNamespace:
    """The components, from top to bottom.

    Args:
        models: names of the models.
        first: the model that is chosen at first.
        config: its limit holds for uploads.
    """
    part = SimpleNamespace()
    part.seen = gr.State(None, time_to_live=_SECONDS_KEPT)
    gr.HTML(HEADER, elem_classes="page")
    part.line = gr.HTML(html_template='<div role="status" aria-live="polite">${value}</div>', elem_classes="said")
    with gr.Row():
        with gr.Column(min_width=300):
            part.picker = _picker("Choose a photograph", "or drop or paste it here", config, pastes=True)
            part.aligned = gr.Checkbox(label="It is an aligned face crop already")
            part.model = gr.Dropdown(models, label="Model", info=MODELS, visible=len(models) > 1)
            part.view = gr.HTML(elem_classes="view")
            part.face = gr.Radio([], label="Face, counted from the left", visible=False)
        with gr.Column(min_width=300):
            part.years = gr.Slider(**span(first), step=1, buttons=[], elem_id="years")
            part.pair = gr.HTML(html_template=COMPARE, js_on_load=script("compare"), elem_id="pair")
    gr.HTML("<h2>Every age</h2>", elem_classes="page")
    part.strip = gr.HTML(elem_id="strip")
    with gr.Tabs():
        with gr.Tab("Photograph"):
            part.everyone = gr.Checkbox(label="Every face in it")
            part.go_photo = gr.Button("Age the photograph", variant="primary")
            part.photo = gr.HTML(elem_classes="wide", elem_id="photo")
        with gr.Tab("Life"):
            part.kind = gr.Radio([("MP4", "mp4"), ("GIF", "gif")], value="mp4", label="File")
            part.go_life = gr.Button("Render the life", variant="primary")
            part.life = gr.HTML(elem_classes="wide", elem_id="life")
        with gr.Tab("Games"):
            part.other = _picker("Choose a second face", "its largest face is taken", config)
            part.game = gr.Radio(games(first), value="morph", label="Game")
            part.go_game = gr.Button("Play", variant="primary")
            part.played = gr.HTML(elem_classes="wide", elem_id="played")
        with gr.Tab("Layers"):
            part.layer = gr.Dropdown(first.layers(), value=first.middle_layer, label="Layer")
            part.go_maps = gr.Button("Show its feature maps", variant="primary")
            part.maps = gr.HTML(elem_classes="wide", elem_id="maps")
    gr.HTML(LIMITS, elem_classes="page limits")
    return part


def _connect(blocks: gr.Blocks, part: SimpleNamespace, do: Handlers) -> None:
    """Connect the events of the components to the handlers: inputs, outputs, and where the progress is shown."""

    def on(event: Any, fn: Any, inputs: list[Any], outputs: list[Any], shows: Any, **how: Any) -> Any:
        return event(fn, inputs, outputs, show_progress_on=shows, api_visibility="private", **how)

    p = part
    chosen, results = [p.seen, p.face, p.years, p.model], [p.photo, p.life, p.played, p.maps]
    for event in (p.picker.upload, p.aligned.input, blocks.load):
        fresh = [p.line, p.seen, p.face, p.view, p.pair, p.strip, *results]
        on(event, do.look, [p.picker, p.aligned, p.model, p.years], fresh, [p.pair, p.strip])
    slid = {"trigger_mode": "always_last", "show_progress": "hidden"}
    on(p.years.input, do.slide, chosen, [p.line, p.pair, p.seen], p.pair, **slid)
    anew = [p.line, p.pair, p.strip, *results]
    on(p.face.input, do.again, chosen, anew, [p.pair, p.strip])
    on(p.model.input, do.other_model, chosen, [*anew, p.years, p.layer, p.game], [p.pair, p.strip])
    whole = [p.picker, p.aligned, p.face, p.everyone, p.years, p.model]
    on(p.go_photo.click, do.photograph, whole, [p.line, p.photo], p.photo)
    on(p.go_life.click, do.life, [p.seen, p.face, p.kind, p.model], [p.line, p.life], p.life)
    two = [p.seen, p.face, p.other, p.aligned, p.game, p.model]
    on(p.go_game.click, do.play, two, [p.line, p.played], p.played)
    on(p.go_maps.click, do.inside, [p.seen, p.face, p.years, p.layer, p.model], [p.line, p.maps], p.maps)


def _picker(title: str, hint: str, config: DemoConfig, *, pastes: bool = False) -> Any:
    props: dict[str, Any] = {"title": title, "hint": hint, "most": config.megabytes * 1e6, "pastes": pastes}
    return gr.HTML(html_template=PICKER, js_on_load=script("picker"), **props)
