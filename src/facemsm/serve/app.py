"""The application: a page, and an API with one endpoint that takes a photo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.formparsers import MultiPartParser
from starlette.middleware.cors import CORSMiddleware

from facemsm.aligner import Aligner
from facemsm.assets import SAMPLE
from facemsm.detectors import FaceDetector, get_detector
from facemsm.errors import FacemsmError
from facemsm.imaging.decoding import TooManyPixelsError, UnknownKindError, decode_image
from facemsm.serve.answers import AlignAnswer, Extra, ModelAnswer, Problem, face_answer, model_answer
from facemsm.serve.guard import HEALTH, Guard, RootPath, SecurityHeaders, check_hosts, check_origins
from facemsm.serve.limits import Limits
from facemsm.serve.requests import BODY, Box, Options, first_problem, read_request
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image, PathLike, Provider

STATIC = Path(__file__).with_name("static")

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The body is not a form that can be read.",
        403: "Called by a foreign name, or from a page of another origin.",
        408: "The photo was not received in time.",
        413: "Too many bytes or pixels.",
        415: "Not a JPEG, PNG or WebP file.",
        422: "A damaged photo, or a field that is missing, unknown or out of range.",
        500: "A fault of the server's.",
        503: "Busy; the header Retry-After says when to try again.",
    }.items()
}


class FewFaces:
    """A detector's best faces only: one photo of a crowd must not hold up everyone."""

    def __init__(self, detector: FaceDetector, most: int) -> None:
        self.name = detector.name
        self.found = 0
        """Faces in the last photo, with those that were left out."""
        self._detector, self.most = detector, most

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`."""
        faces = self._detector.detect(image)
        self.found = len(faces)
        return faces[: self.most]


def load_aligners(
    weights: Sequence[PathLike],
    limits: Limits,
    *,
    settings: Settings | None = None,
    detector: str | None = None,
    detector_model: PathLike | None = None,
    min_size: float = 0.0,
    threads: int = 1,
    providers: Sequence[Provider] = (),
) -> list[Aligner]:
    """The aligners that the server works with, and one detector for all of them.

    Args:
        weights: bundled models' names or folders.
        limits: of requests.
        settings, threads, providers: as for :meth:`facemsm.Aligner.from_pretrained`.
        detector, detector_model, min_size: as for :func:`facemsm.get_detector`.

    Raises:
        FacemsmError: as those.
    """
    finder = get_detector(detector, model=detector_model, min_size=min_size, providers=providers)
    options: dict[str, Any] = {"settings": settings, "threads": threads, "providers": providers}
    options["detector"] = FewFaces(finder, limits.faces)
    return [Aligner.from_pretrained(name, keep=("heatmaps", "canonical"), **options) for name in weights]


def by_name(aligners: Sequence[Aligner]) -> dict[str, Aligner]:
    """Aligners by their models' names.

    Raises:
        FacemsmError: two have one name.
    """
    models = {aligner.model.name: aligner for aligner in aligners}
    if len(models) < len(aligners):
        names = ", ".join(aligner.model.name for aligner in aligners)
        raise FacemsmError(f"two of the weights have one name ({names}); leave one out")
    return models


def create_app(
    aligners: Sequence[Aligner],
    *,
    host: str = "127.0.0.1",
    allowed_hosts: Collection[str] = (),
    cors_origins: Collection[str] = (),
    root_path: str = "",
    min_score: float = 0.0,
    limits: Limits | None = None,
) -> FastAPI:
    """The page and its API around aligners, which work on one photo at a time in a thread of their own.

    Args:
        aligners: the first is the default; their settings are the defaults of a request, and they keep what requests
            may ask for.
        host: the name or address that the server is bound to.
        allowed_hosts: other names that it may be called by; ``*`` for any. See :class:`Guard`.
        cors_origins: of pages elsewhere that may use the API, ``https://example.org``; ``*`` for any.
        root_path: where a proxy shows it, such as ``/faces``, whether it passes that on or not.
        min_score: faces that are found and have a lower score are left out, where a request does not say.
        limits: of requests.

    Raises:
        FacemsmError: two aligners of one name, or an allowed host or an origin is none.
    """
    limits = limits or Limits()
    models = by_name(aligners)
    hosts, origins, root_path = check_hosts(allowed_hosts), check_origins(cors_origins), root_path.rstrip("/")
    if root_path and not root_path.startswith("/"):
        raise FacemsmError(f"root path {root_path!r}: begins with a slash, such as /faces")
    # Starlette moves larger files to the disk; the guard's limit keeps them small enough for the memory.
    MultiPartParser.spool_max_size = max(MultiPartParser.spool_max_size, limits.upload_bytes)
    worker = ThreadPoolExecutor(1, thread_name_prefix="aligner")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shutdown(wait=False, cancel_futures=True)  # the photo that is worked on does not hold up the end

    app = FastAPI(
        title="facemsm",
        summary="Landmarks of the faces in a photo.",
        description="Nothing that is sent is kept. See `docs/web.md`.",
        version="1",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to addresses that a proxy would have to know
        lifespan=lifespan,
    )
    # the last one added is the outermost
    app.add_middleware(Guard, host=host, hosts=hosts, origins=origins, limits=limits)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    if root_path:
        app.add_middleware(RootPath, path=root_path)
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(RequestValidationError, _field_problem)

    def chosen(model: str | None) -> Aligner:
        if model is not None and model not in models:
            raise HTTPException(422, f"model: is not one of {', '.join(models)}")
        return aligners[0] if model is None else models[model]

    @app.post(
        "/api/align",
        response_model=AlignAnswer,
        responses=_PROBLEMS,
        openapi_extra={"requestBody": BODY},
        summary="Find the landmarks of a photo",
        description="A form with the photo and its options, or the photo as the body and the options in the address.",
    )
    async def align(request: Request, query: Annotated[Options, Query()]) -> Response:
        data, options = await read_request(request, query)
        aligner = chosen(options.model)
        settings = options.settings(aligner)
        boxes = options.given_boxes(limits.faces)
        least = min_score if options.min_score is None else options.min_score
        job = worker.submit(_align, aligner, settings, data, boxes, set(options.include), limits, least)
        return Response(await _outcome(request, job), media_type="application/json")

    @app.get("/api/model", summary="The landmarks, the thresholds and the limits", responses={422: _PROBLEMS[422]})
    async def model(model: Annotated[str | None, Query(description="Name of the weights.")] = None) -> ModelAnswer:
        return model_answer(chosen(model), models, limits)

    @app.get(HEALTH, summary="Whether the server answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    # one by one: a folder mounted at / would answer the API's paths too when they are called by a wrong method
    for file in (*STATIC.iterdir(), SAMPLE):
        app.add_route("/" if file.name == "index.html" else f"/{file.name}", _sender(file), include_in_schema=False)
    return app


def _sender(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return FileResponse(file)

    return send


def _align(
    aligner: Aligner,
    settings: Settings,
    data: bytes,
    boxes: Sequence[Box] | None,
    extras: set[Extra],
    limits: Limits,
    min_score: float,
) -> str:
    """The answer to a request, as JSON; runs in the worker."""
    try:
        image = decode_image(data, max_pixels=limits.pixels, kinds=("JPEG", "PNG", "WebP"))
        faces = aligner.align(image, boxes, settings=settings)
        detector, found = aligner.detector, None
        if boxes is None:
            if isinstance(detector, FewFaces):  # which may have looked at several orientations
                found = len(faces) if len(faces) < detector.most else max(len(faces), detector.found)
            faces = [face for face in faces if face.score >= min_score]
        size, scheme = aligner.model.codec.input_size, aligner.scheme
        answers = [face_answer(face, image, extras, size, scheme) for face in faces]
    except UnknownKindError as error:
        raise HTTPException(415, str(error)) from error
    except TooManyPixelsError as error:
        raise HTTPException(413, str(error)) from error
    except FacemsmError as error:
        raise HTTPException(422, str(error).replace("image 0:", "photo:")) from error
    height, width = image.shape[:2]
    answer = AlignAnswer(
        width=width,
        height=height,
        scheme=scheme.name,
        method=settings.method or aligner.method,
        faces_found=found,
        faces=answers,
    )
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
    assert isinstance(error, RequestValidationError)
    errors = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
    return JSONResponse({"detail": first_problem(errors)}, 422)
