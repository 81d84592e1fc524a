"""The application: a page, and an API with one endpoint that takes a photo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field, TypeAdapter, ValidationError
from starlette.formparsers import MultiPartParser

from facemsm.aligner import Aligner
from facemsm.assets import SAMPLE
from facemsm.detectors import FaceDetector, get_detector
from facemsm.errors import FacemsmError
from facemsm.imaging.decoding import TooManyPixelsError, UnknownKindError, decode_image
from facemsm.serve.answers import AlignAnswer, Extra, ModelAnswer, Problem, face_answer, model_answer
from facemsm.serve.guard import Guard
from facemsm.serve.limits import Limits
from facemsm.shapes.reconstruction import Reconstruction
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image, PathLike

STATIC = Path(__file__).with_name("static")

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

_THRESHOLD = "Asks for the paper's stage 3, and sets its threshold for "
_BOXES = TypeAdapter(list[Box])

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The body is not a form that can be read.",
        403: "Called by a foreign name, or from a page of another origin.",
        408: "The photo was not received in time.",
        413: "Too many bytes or pixels.",
        415: "Not a JPEG, PNG or WebP file.",
        422: "A damaged photo, or a field that is missing or out of range.",
        500: "A fault of the server's.",
        503: "Busy; the header Retry-After says when to try again.",
    }.items()
}


class FewFaces:
    """A detector's best faces only: one photo of a crowd must not hold up everyone."""

    def __init__(self, detector: FaceDetector, most: int) -> None:
        self.name = detector.name
        self._detector, self._most = detector, most

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`."""
        return self._detector.detect(image)[: self._most]


def load_aligner(weights: PathLike, limits: Limits, threads: int = 1) -> Aligner:
    """The aligner that the server works with, its detector loaded.

    Raises:
        FacemsmError: as :meth:`facemsm.Aligner.from_pretrained`.
    """
    detector = FewFaces(get_detector(), limits.faces)
    return Aligner.from_pretrained(weights, detector=detector, keep=("heatmaps", "canonical"), threads=threads)


def create_app(aligner: Aligner, *, host: str = "127.0.0.1", limits: Limits | None = None) -> FastAPI:
    """The page and its API around one aligner, which works on one photo at a time in a thread of its own.

    Args:
        aligner: its thresholds are the defaults of a request; it keeps what requests may ask for.
        host: the name or address that the server is bound to; see :class:`Guard`.
        limits: of requests.
    """
    limits = limits or Limits()
    # Starlette moves larger files to the disk; the guard's limit keeps them small enough for the memory.
    MultiPartParser.spool_max_size = max(MultiPartParser.spool_max_size, limits.upload_bytes)
    worker = ThreadPoolExecutor(1, thread_name_prefix="aligner")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shutdown(cancel_futures=True)

    app = FastAPI(
        title="facemsm",
        summary="Landmarks of the faces in a photo.",
        description="Nothing that is sent is kept. See `docs/web.md`.",
        version="1",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, host=host, limits=limits)
    app.add_exception_handler(RequestValidationError, _field_problem)

    @app.post("/api/align", response_model=AlignAnswer, responses=_PROBLEMS, summary="Find the landmarks of a photo")
    async def align(
        request: Request,
        photo: Annotated[UploadFile, File(description="A JPEG, PNG or WebP file.")],
        boxes: Annotated[
            str | None,
            Form(description="Faces as JSON, `[[x_min, y_min, x_max, y_max], ...]`; they are looked for if left out."),
        ] = None,
        contour: Annotated[Share | None, Form(description=_THRESHOLD + "the face's outline.")] = None,
        features: Annotated[Share | None, Form(description=_THRESHOLD + "all other landmarks.")] = None,
        include: Annotated[list[Extra] | None, Form(description="What else to return for every face.")] = None,
    ) -> Response:
        data = await photo.read()
        await photo.close()
        given = None if boxes is None else _parse_boxes(boxes, limits.faces)
        settings = aligner.settings
        if contour is not None or features is not None:
            thresholds = {"contour": contour, "features": features}
            chosen = {name: value for name, value in thresholds.items() if value is not None}
            settings = replace(settings, method="paper", reconstruction=Reconstruction.with_thresholds(chosen))
        extras = set(include or ())
        answer = await _outcome(request, worker.submit(_align, aligner, settings, data, given, extras, limits))
        return Response(answer, media_type="application/json")

    @app.get("/api/model", summary="The landmarks, the thresholds and the limits")
    async def model() -> ModelAnswer:
        return model_answer(aligner, limits)

    # one by one: a folder mounted at / would answer the API's paths too when they are called by a wrong method
    for file in (*STATIC.iterdir(), SAMPLE):
        app.add_route("/" if file.name == "index.html" else f"/{file.name}", _sender(file), include_in_schema=False)
    return app


def _sender(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return FileResponse(file)

    return send


def _parse_boxes(text: str, most: int) -> list[Box]:
    try:
        boxes = _BOXES.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise HTTPException(422, _problem(["boxes", *first["loc"]], first["msg"])) from error
    if len(boxes) > most:
        raise HTTPException(422, f"boxes: {len(boxes)} are above the limit of {most}")
    return boxes


def _align(
    aligner: Aligner, settings: Settings, data: bytes, boxes: Sequence[Box] | None, extras: set[Extra], limits: Limits
) -> str:
    """The answer to a request, as JSON; runs in the worker."""
    try:
        image = decode_image(data, max_pixels=limits.pixels, kinds=("JPEG", "PNG", "WebP"))
        faces = aligner.align(image, boxes, settings=settings)
    except UnknownKindError as error:
        raise HTTPException(415, str(error)) from error
    except TooManyPixelsError as error:
        raise HTTPException(413, str(error)) from error
    except FacemsmError as error:
        raise HTTPException(422, str(error).replace("image 0:", "photo:")) from error
    height, width = image.shape[:2]
    size = aligner.model.codec.input_size
    answers = [face_answer(face, image, extras, size) for face in faces]
    answer = AlignAnswer(width=width, height=height, scheme=aligner.scheme.name, faces=answers)
    return answer.model_dump_json(exclude_unset=True)  # the extras that were not asked for


async def _outcome(request: Request, job: Future[str]) -> str:
    """The result of a job. One that nobody waits for any more is dropped, unless it has begun."""
    waiting = asyncio.wrap_future(job)
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=0.2)
            if not waiting.done() and await request.is_disconnected():
                raise HTTPException(499, "the client has gone")
        return waiting.result()
    finally:
        waiting.cancel()


async def _field_problem(_: Request, error: Exception) -> JSONResponse:
    """One line for the first field that is wrong, without repeating what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": _problem(first["loc"][1:], first["msg"])}, 422)


def _problem(where: Sequence[int | str], what: str) -> str:
    return f"{'.'.join(map(str, where)) or 'body'}: {what}"
