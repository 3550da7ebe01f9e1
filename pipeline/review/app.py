"""The pages and requests of the review."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pipeline.images import Renderer
from pipeline.review import shown
from pipeline.review.access import SESSION, Session
from pipeline.review.applier import Applier
from pipeline.review.desk import NothingToUndo, OtherAnswer, ReviewDesk, UnknownImage
from pipeline.review.queues import TITLES, Queue
from transforms.core.json_data import parse_json
from transforms.core.reasons import MEANINGS, ProcessingFailure, Reason
from transforms.imaging.display_image import DisplayImage
from transforms.lake.index_files import DamagedFile
from transforms.lake.labels import REVIEWER_PATTERN
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.sandbox.display import MAX_LONG_SIDE

HERE: Final = Path(__file__).parent
REDUCED_LONG_SIDE: Final = 1280
"""Long side in pixels of the image that is shown first."""
CLIENT_PATTERN: Final = re.compile(r"[0-9a-f]{32}")
SHA256_PATTERN: Final = re.compile(r"[0-9a-f]{64}")
TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

Body = dict[str, Any]


class BadRequest(Exception):
    """A request that the page does not send; the message is its answer."""


class ReviewApp:
    """The requests of the review.

    Args:
        layout: the lake.
        desk: hands out images and takes answers.
        applier: moves objects later.
        renderer: decodes objects.
    """

    def __init__(
        self, layout: Layout, desk: ReviewDesk, applier: Applier, renderer: Renderer
    ) -> None:
        self._layout, self._desk, self._applier, self._renderer = layout, desk, applier, renderer
        changes = {
            "/api/reviewer": self._set_reviewer,
            "/api/next": self._next,
            "/api/skip": self._skip,
            "/api/answer": self._answer,
            "/api/undo": self._undo,
        }
        self.asgi = Starlette(
            routes=[
                Route("/", self._page),
                Route("/api/state", self._state),
                Route("/image/{content}", self._image),
                *(
                    Route(path, _change(function), methods=["POST"])
                    for path, function in changes.items()
                ),
                Mount("/static", StaticFiles(directory=HERE / "static")),
            ],
            exception_handlers={Exception: _unexpected},
        )

    async def _page(self, request: Request) -> Response:
        session: Session = request.scope[SESSION]
        page = TEMPLATES.get_template("page.html").render(
            csrf=session.csrf,
            reviewer=session.reviewer,
            reviewer_pattern=REVIEWER_PATTERN.pattern,
            queues=[(str(queue), TITLES[queue]) for queue in Queue],
            choices=shown.choices_of(self._desk.labels),
        )
        return HTMLResponse(page)

    async def _state(self, request: Request) -> Response:
        session: Session = request.scope[SESSION]
        return JSONResponse(await run_in_threadpool(self._summary, session))

    def _summary(self, session: Session) -> Body:
        progress = self._applier.progress
        return {
            "reviewer": session.reviewer,
            "counts": {str(queue): count for queue, count in self._desk.counts().items()},
            "answered": self._desk.answers_of(session.reviewer) if session.reviewer else 0,
            "changed": progress.changed,
            "waiting": progress.waiting,
            "problem": progress.problem,
        }

    def _set_reviewer(self, session: Session, body: Body) -> Body:
        name = _text(body, "reviewer").strip()
        if not REVIEWER_PATTERN.fullmatch(name):
            raise BadRequest("Use 1 to 40 letters, digits, spaces, or _ . @ -")
        session.reviewer = name
        return self._summary(session)

    def _next(self, session: Session, body: Body) -> Body:
        client, queue = _client(body), Queue(_text(body, "queue"))
        return self._shown(session, self._desk.next(client, queue), queue)

    def _skip(self, session: Session, body: Body) -> Body:
        self._desk.skip(_client(body), _content(body))
        return self._next(session, body)

    def _answer(self, session: Session, body: Body) -> Body:
        if not session.reviewer:
            raise BadRequest("Give a nickname first.")
        content = _content(body)
        label = self._desk.answer(
            session.reviewer, content, _text(body, "answer"), _text(body, "label_id")
        )
        self._applier.add(content)
        return {"answer": label.answer, "title": shown.title_of(label.answer)}

    def _undo(self, session: Session, body: Body) -> Body:
        row = self._desk.undo(_client(body), session.reviewer)
        self._applier.add(str(row.content_sha256))
        return self._shown(session, row, Queue(_text(body, "queue")))

    def _shown(self, session: Session, row: IndexRow | None, queue: Queue) -> Body:
        summary = self._summary(session)
        if row is None:
            others = summary["counts"][str(queue)]
            return {**summary, "item": None, "with_others": others}
        html = TEMPLATES.get_template("item.html").render(
            bars=shown.bars(row, shown.choices_of(self._desk.labels)),
            explanation=shown.explanation(row),
            header_claim=shown.header_claim(row),
            predicted_region=shown.predicted_region(row),
            facts=shown.facts(row),
            row=row,
        )
        item = {
            "content": row.content_sha256,
            "key": row.object_key,
            "frames": row.number_of_frames or 1,
            "html": html,
        }
        return {**summary, "item": item}

    async def _image(self, request: Request) -> Response:
        content = request.path_params["content"]
        frame = request.query_params.get("frame", "1")
        if not SHA256_PATTERN.fullmatch(content) or not re.fullmatch("[0-9]{1,6}", frame):
            return JSONResponse({"problem": "no such image"}, 404)
        side = MAX_LONG_SIDE if "full" in request.query_params else REDUCED_LONG_SIDE
        try:
            image = await run_in_threadpool(self._decode, content, side, int(frame))
        except UnknownImage:
            return JSONResponse({"problem": "The lake no longer has this image."}, 404)
        if isinstance(image, Reason):
            meaning = MEANINGS[image]
            problem = f"The image cannot be shown: {meaning.text}."
            return JSONResponse({"problem": problem}, 422)
        rows, columns = image.levels.shape
        properties = {
            "rows": rows,
            "columns": columns,
            "slope": image.slope,
            "intercept": image.intercept,
            "low": image.low,
            "high": image.high,
            "full": image.full_long_side,
        }
        headers = {"x-image": json.dumps(properties)}
        pixels = image.levels.astype("<u2", copy=False).tobytes()
        return Response(pixels, headers=headers, media_type="application/octet-stream")

    def _decode(self, content: str, side: int, frame: int) -> DisplayImage | Reason:
        """Decode an image, also if its object has moved since its row was loaded."""
        image: DisplayImage | Reason = Reason.DISAPPEARED
        for row_of in (self._desk.row, self._desk.current_row):
            uri = self._layout.absolute(str(row_of(content).object_uri))
            image = self._renderer.display_image(
                uri, side, frame_number=max(1, frame), sha256=content
            )
            if image != Reason.DISAPPEARED:
                break
        return image


def _change(
    function: Callable[[Session, Body], Body],
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a request that changes something; its body is a JSON object."""

    async def endpoint(request: Request) -> Response:
        try:
            body = parse_json(await request.body())
            if not isinstance(body, dict):
                raise BadRequest("The body is not an object.")
            session: Session = request.scope[SESSION]
            return JSONResponse(await run_in_threadpool(function, session, body))
        except BadRequest as error:
            return JSONResponse({"problem": str(error)}, 400)
        except ValueError:
            return JSONResponse({"problem": "The request is malformed."}, 400)
        except UnknownImage:
            return JSONResponse({"problem": "The lake no longer has this image."}, 404)
        except NothingToUndo:
            return JSONResponse({"problem": "There is nothing to undo."}, 409)
        except OtherAnswer:
            return JSONResponse({"problem": "Another answer was stored before."}, 409)
        except (ProcessingFailure, DamagedFile, OSError) as error:
            reason = MEANINGS[error.reason].text if isinstance(error, ProcessingFailure) else error
            problem = f"Not stored: {reason}. Try again."
            return JSONResponse({"problem": problem}, 503)

    return endpoint


async def _unexpected(request: Request, error: Exception) -> Response:
    return JSONResponse({"problem": "The review failed; see its log."}, 500)


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"{name} is missing.")
    return value


def _client(body: Body) -> str:
    client = _text(body, "client")
    if not CLIENT_PATTERN.fullmatch(client):
        raise BadRequest("client is malformed.")
    return client


def _content(body: Body) -> str:
    content = _text(body, "content")
    if not SHA256_PATTERN.fullmatch(content):
        raise BadRequest("content is malformed.")
    return content
