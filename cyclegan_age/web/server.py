"""The REST service, the page, and the server of both."""

import gc
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import gradio as gr
import uvicorn
from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.routing import Mount

from cyclegan_age.config import OLDEST, DemoConfig, UserError
from cyclegan_age.web.files import png
from cyclegan_age.web.gate import Gate
from cyclegan_age.web.limits import Refused, Worker
from cyclegan_age.web.markup import HERE
from cyclegan_age.web.page import Sessions, build, theme
from cyclegan_age.web.work import KINDS, Studio, load

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")  # files come by the first alone
_HELD = 8  # uploads of the largest size that may be in memory at the same time
Image_ = Annotated[UploadFile, File(description="a photograph, or an aligned face crop")]
Face = Annotated[str, Form(description="all, largest, or a number counted from the left", max_length=10)]
OneFace = Annotated[str, Form(description="largest, or a number counted from the left", max_length=10)]
Aligned = Annotated[bool, Form(description="the picture is an aligned crop; it is not searched for faces")]
Model = Annotated[str, Form(description="name of the weights; default: the first", max_length=200)]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"example": {"error": "one line"}}}}
    for status, text in {
        413: "too many bytes or pixels",
        415: "the body is not multipart/form-data",
        422: "not a picture, no face in it, or an invalid field",
        503: "the queue is full; `waiting` is its length, the header Retry-After gives the seconds to wait",
        504: "the time limit is exceeded",
    }.items()
}


def _answers(what: str, *kinds: str) -> dict[int | str, dict[str, Any]]:
    note = {"description": "warning of a turned face, or of an age that is not reliable", "schema": {"type": "string"}}
    return {200: {"description": what, "content": {k: {} for k in kinds}, "headers": {"X-Note": note}}} | _ERRORS


async def _known_fields(request: Request) -> None:
    """Refuse unknown fields, such as `targetage=60`, and bodies that are not forms."""
    route = request.scope["route"]
    names = [field.alias for field in route.dependant.body_params]
    kind = request.headers.get("content-type", _FORMS[0]).partition(";")[0].strip().lower()
    if names and kind not in _FORMS:
        kind = re.sub(r"[^\w/.+-]", "", kind, flags=re.ASCII)[:40]
        raise Refused(415, f"{kind}: expected multipart/form-data, as curl -F image=@photo.jpg sends it")
    odd = next((name for name in await request.form() if name not in names), None) if names else None
    if odd is not None:
        raise Refused(422, f"{odd[:40]}: unknown field; expected {', '.join(names)}")


def service(studio: Studio, worker: Worker, config: DemoConfig) -> FastAPI:
    """The REST service."""
    known = [Depends(_known_fields)]

    def answer(made: bytes, kind: str, note: str, model: str) -> Response:
        mark = studio.mark(model)
        headers = {"X-Note": note} if note else {}
        headers |= {"Link": f'<{mark.source}>; rel="type"'} if mark else {}
        return Response(made, media_type=kind, headers=headers)

    app = FastAPI(title="cyclegan-age", version="0.1.0", docs_url=None, redoc_url=None, dependencies=known)

    _report_errors(app)

    @app.post("/api/age", response_class=Response, responses=_answers("the picture, in its own format", "image/*"))
    async def age(
        image: Image_,
        target_age: Annotated[float, Form(ge=0, le=OLDEST, allow_inf_nan=False, description="years")],
        face: Face = "all",
        aligned: Aligned = False,
        model: Model = "",
    ) -> Response:
        """The faces of a photograph at an age; no pixel outside the faces changes."""
        data = await image.read()
        job = partial(studio.age, data, target_age, face=face, aligned=aligned, model=model)
        return answer(*await worker.run(job), model)

    @app.post("/api/strip", response_class=Response, responses=_answers("the sheet", "image/png"))
    async def strip(image: Image_, face: OneFace = "largest", aligned: Aligned = False, model: Model = "") -> Response:
        """One face at all ages of the model on one sheet; a border marks its own age group."""
        data = await image.read()

        def job() -> tuple[bytes, str, str]:
            mark = studio.mark(model)
            one, note = studio.face(data, face, aligned, model)
            made = studio.strip(one, model)
            return png(made.sheet, mark and mark.of(made.caption)), "image/png", note

        return answer(*await worker.run(job), model)

    @app.post("/api/life", response_class=Response, responses=_answers("the animation", *KINDS.values()))
    async def life(
        image: Image_,
        format: Annotated[Literal["gif", "mp4"], Form()] = "mp4",
        face: OneFace = "largest",
        aligned: Aligned = False,
        model: Model = "",
    ) -> Response:
        """One face from the first to the last age of the model."""
        data = await image.read()

        def job() -> tuple[bytes, str, str]:
            one, note = studio.face(data, face, aligned, model)
            return studio.life(one, format, model), KINDS[format], note

        return answer(*await worker.run(job), model)

    posts = {route.path for route in app.routes if isinstance(route, APIRoute)}

    others = ["PUT", "PATCH", "DELETE"]

    @app.api_route("/openapi.json", methods=["POST", *others], include_in_schema=False)
    async def readable() -> Response:
        return JSONResponse({"error": "must be read by GET"}, 405, {"Allow": "GET"})

    @app.api_route("/api/{rest:path}", methods=["GET", "HEAD", "POST", *others], include_in_schema=False)
    async def nothing(request: Request) -> Response:
        if request.url.path in posts:
            return JSONResponse({"error": "must be sent by POST"}, 405, {"Allow": "POST"})
        return JSONResponse({"error": f"no such request; expected one of {', '.join(sorted(posts))}"}, 404)

    return app


def _report_errors(app: FastAPI) -> None:
    """Answer every error with one line of JSON."""

    @app.exception_handler(Refused)
    async def refused(_: Request, no: Refused) -> Response:
        return JSONResponse(no.body, no.status, no.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_field(_: Request, wrong: RequestValidationError) -> Response:
        first = wrong.errors()[0]
        field, text = first["loc"][-1], first["msg"]
        if first["type"] == "missing":
            text = "required"
        elif field == "image":
            text = "must be a file, as curl -F image=@photo.jpg sends it"
        elif field == "target_age":
            text = f"must be a number from 0 to {OLDEST}"
        return JSONResponse({"error": f"{field}: {text}"}, 422)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, wrong: HTTPException) -> Response:
        return JSONResponse({"error": str(wrong.detail)}, wrong.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, wrong: Exception) -> Response:
        return JSONResponse({"error": "the server failed; try another picture"}, 500)


def mount(app: FastAPI, blocks: gr.Blocks, host: str, port: int) -> Any:
    """Serve a page at the root of an application, beside its routes; returns Gradio's application."""
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    page: Any = next(route.app for route in app.routes if isinstance(route, Mount))
    page.state_holder = Sessions()  # type: ignore[no-untyped-call]
    page.state_holder.set_blocks(blocks)
    return page


def application(config: DemoConfig) -> Gate:
    """The whole application, with loaded weights.

    Raises:
        UserError: the weights cannot be used.
    """
    studio = Studio(load(config), config)
    # The traceback of a refusal may still hold its picture.
    worker = Worker(config.waiting, config.seconds, before=gc.collect)
    most = round(config.megabytes * 1e6)
    MultiPartParser.spool_max_size = 2 * most  # uploads are parsed in memory, never in a file
    app = service(studio, worker, config)
    mount(app, build(studio, worker, config), config.host, config.port)
    gc.freeze()  # the loaded objects stay: `gc.collect` need not visit them
    root_path = config.root_path.rstrip("/")
    return Gate(app, most, _HELD * most, config.seconds, root_path=root_path, allow_origin=config.allow_origin)


def run(config: DemoConfig, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; see `serve`."""
    listen(config.host, config.port, lambda: application(config), say, flags=f"--host {config.host} ")


def listen(host: str, port: int, make: Callable[[], Gate], say: Callable[[str], None], flags: str = "") -> None:
    """Serve an application until Ctrl-C.

    Args:
        host: address to listen on.
        port: to listen on.
        make: creates the application, after the address is bound.
        say: called with the line that gives the address.
        flags: named beside --port in the error.

    Raises:
        UserError: the address cannot be bound.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as e:
        raise UserError(f"{flags}--port {port}: {e.strerror or e}; expected a free port") from None
    with listening:
        app = make()
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{port} (Ctrl-C stops it)")
        settings = uvicorn.Config(app, log_level="error", access_log=False, server_header=False)
        _Server(settings, app).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Stops even if pages are open."""

    def __init__(self, settings: uvicorn.Config, gate: Gate) -> None:
        super().__init__(settings)
        self._gate = gate

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the open answers, then stop as uvicorn does."""
        self._gate.close()
        await super().shutdown(sockets)
