"""The application behind the page and the API.

Whatever takes a processor's time runs in threads, as many at once as there are processors: those waiting for their turn
hold nothing but their request.
"""

import gzip
import hashlib
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from nearkin.catalog import Answer, Catalog
from nearkin.catalog.answers import as_json, certainty
from nearkin.catalog.catalog import FALSE_MATCHES, Crop
from nearkin.catalog.store import Entry
from nearkin.data.images import Picture, UnreadableImage
from nearkin.errors import InputError
from nearkin.serve.decoding import File
from nearkin.serve.live import Health, Live
from nearkin.serve.problems import Problem
from nearkin.serve.uploads import uploaded
from nearkin.why import explain, region

PAGE = files("nearkin.serve") / "page"
ASSETS = {each.name: each.read_bytes() for each in PAGE.iterdir() if each.name.endswith((".html", ".css", ".js"))}
T = TypeVar("T")

Id = Annotated[str, InPath(pattern="^[0-9a-f]{32}$", description="Of a picture in the catalogue")]
K = Annotated[int, Query(ge=1, le=200, description="Hits, at most")]
Label = Annotated[str | None, Query(max_length=1000, description="Only among the pictures of this label")]
CropText = Annotated[
    str | None,
    Query(
        alias="crop",
        pattern="^[0-9]{1,6},[0-9]{1,6},[0-9]{1,6},[0-9]{1,6}$",
        description="x,y,w,h: the part of the query that is meant, in pixels of the upright picture",
    ),
]
Rate = Annotated[float, Query(gt=0, lt=1, description="Share of the queries of unknown kinds that may find a match")]
From = Annotated[
    str | None,
    Query(alias="from", pattern="^[0-9a-f]{32}$", description="The query, a picture of the catalogue; else the body"),
]


class Seen(NamedTuple):
    """What the model sees of a picture, or of a part of it: (side, side, 3), and how large that is in the picture."""

    square: Picture
    width: int
    height: int


PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "The bytes of a picture's file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
NO: dict[int | str, dict[str, Any]] = {
    status: {"description": "One line in `detail`"} for status in (400, 401, 404, 408, 413, 415, 421, 422, 503)
}


def create_app(live: Live) -> FastAPI:
    """The page and the API of a catalogue."""

    app = FastAPI(
        title="nearkin",
        summary="Search by picture",
        docs_url=None,  # these two fetch their scripts from elsewhere; /docs below does not
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=NO,
    )
    turns = CapacityLimiter(os.cpu_count() or 1)

    decoders = live.decoders

    async def work(task: Callable[[Catalog], T]) -> T:
        return await to_thread.run_sync(live.ask, task, limiter=turns)

    def seen(catalog: Catalog, picture: AbstractContextManager[File], crop: str | None = None) -> Seen:
        part = None if crop is None else numbers(crop)
        with picture as file:
            square = decoders.square(file, catalog.model.architecture.image, part)
        return Seen(square, *(file[1:] if part is None else part[2:]))

    @contextmanager
    def stored(entry: Entry) -> Iterator[File]:
        """The file of a picture of the catalogue, to be decoded inside."""
        path = Path(entry.record.path)
        try:
            yield decoders.look(path)
        except (OSError, UnreadableImage) as error:
            line = f"the file of {path.name} is gone or damaged since it was indexed"
            raise Problem(HTTPStatus.NOT_FOUND, line) from error

    @app.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> JSONResponse:
        return JSONResponse({"detail": problem.line}, problem.status)

    @app.exception_handler(InputError)
    async def wrong(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, HTTPStatus.BAD_REQUEST)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, HTTPStatus.UNPROCESSABLE_ENTITY)

    @app.exception_handler(HTTPException)
    async def no_such(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        line = "something went wrong here; the server's terminal shows what"
        return JSONResponse({"detail": line}, HTTPStatus.INTERNAL_SERVER_ERROR)

    @app.post("/api/search", summary="The pictures nearest to an upload", openapi_extra=PICTURE_BODY)
    async def search(
        request: Request, k: K = 24, label: Label = None, crop: CropText = None, false_matches: Rate = FALSE_MATCHES
    ) -> dict[str, Any]:
        data = await request.body()

        def task(catalog: Catalog) -> dict[str, Any]:
            vector = catalog.embed(seen(catalog, uploaded(data, decoders), crop).square)
            itself = {hashlib.sha256(data).hexdigest()}
            return shown(catalog.nearest(vector, k, label, false_matches, itself=itself), catalog)

        return await work(task)

    @app.get("/api/similar/{id}", summary="The other pictures nearest to one of the catalogue")
    async def similar(
        id: Id, k: K = 24, label: Label = None, crop: CropText = None, false_matches: Rate = FALSE_MATCHES
    ) -> dict[str, Any]:
        def task(catalog: Catalog) -> dict[str, Any]:
            entry = entry_of(catalog, id)
            vector = entry.vector
            if crop is not None:
                vector = catalog.embed(seen(catalog, stored(entry), crop).square)
            itself = {entry.record.sha256}
            return shown(catalog.nearest(vector, k, label, false_matches, but=id, itself=itself), catalog)

        return await work(task)

    @app.post(
        "/api/why/{id}", summary="Which regions of a query and a hit carry their similarity", openapi_extra=PICTURE_BODY
    )
    async def why(request: Request, id: Id, query: From = None, crop: CropText = None) -> dict[str, Any]:
        data = await request.body()

        def task(catalog: Catalog) -> dict[str, Any]:
            hit = seen(catalog, stored(entry_of(catalog, id)))
            own = uploaded(data, decoders) if query is None else stored(entry_of(catalog, query))
            asked = seen(catalog, own, crop)
            shares = explain(catalog.model, asked.square, hit.square)
            image = catalog.model.architecture.image
            return {
                name: {
                    "share": share.astype(float).round(3).tolist(),
                    "region": region(image, width=part.width, height=part.height),
                }
                for name, share, part in (("query", shares.query, asked), ("hit", shares.hit, hit))
            }

        return await work(task)

    @app.get("/api/map", summary="Where the pictures lie on the map, and their labels")
    async def where(request: Request) -> Response:
        tag, body = await run_in_threadpool(live.map)
        headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(gzip.decompress(body), media_type="application/json", headers=headers)
        return Response(body, media_type="application/json", headers={**headers, "content-encoding": "gzip"})

    @app.get("/api/thumbnail/{id}", summary="A small copy of a picture", response_class=Response)
    async def thumbnail(id: Id) -> Response:
        entry = await run_in_threadpool(live.ask, lambda catalog: entry_of(catalog, id))
        return Response(entry.thumbnail, media_type="image/jpeg", headers={"cache-control": "private, max-age=300"})

    @app.get("/api/picture/{id}", summary="A picture, upright, at most 1,024 pixels", response_class=Response)
    async def picture(id: Id) -> Response:
        def task(catalog: Catalog) -> bytes:
            with stored(entry_of(catalog, id)) as file:
                return decoders.shown(file)

        jpeg = await work(task)
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=300"})

    @app.post("/api/preview", summary="An upload as any browser shows it, and its size", openapi_extra=PICTURE_BODY)
    async def preview(request: Request) -> dict[str, Any]:
        data = await request.body()

        def task(catalog: Catalog) -> dict[str, Any]:
            with uploaded(data, decoders) as file:
                jpeg = b64encode(decoders.shown(file)).decode()
            return {"width": file.width, "height": file.height, "image": f"data:image/jpeg;base64,{jpeg}"}

        return await work(task)

    @app.get("/api/size/{id}", summary="Width and height of a picture, in pixels")
    async def size(id: Id) -> dict[str, int]:
        def task(catalog: Catalog) -> dict[str, int]:
            with stored(entry_of(catalog, id)) as file:
                return {"width": file.width, "height": file.height}

        return await work(task)

    @app.get("/api/health", summary="Whether the server answers, and with what")
    async def health() -> Health:
        return await run_in_threadpool(live.health)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return asset("api.html")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return asset("index.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @app.get("/assets/{name}", include_in_schema=False)
    async def assets(name: str) -> Response:
        if name not in ASSETS:
            raise Problem(HTTPStatus.NOT_FOUND, "there is no such file")
        return asset(name)

    return app


def asset(name: str) -> Response:
    return Response(ASSETS[name], media_type=guess_type(name)[0], headers={"cache-control": "no-cache"})


def numbers(crop: str) -> Crop:
    x, y, width, height = map(int, crop.split(","))
    return x, y, width, height


def entry_of(catalog: Catalog, id: str) -> Entry:
    """A picture of the catalogue.

    Raises:
        Problem: It is not there (any more).
    """
    found = catalog.table.entries([id])
    if not found:
        raise Problem(HTTPStatus.NOT_FOUND, "the catalogue holds no such picture")
    return found[0]


def shown(answer: Answer, catalog: Catalog) -> dict[str, Any]:
    """The answer for the page: of a path its last two names, for whose disk it was is nobody's business."""
    told = {**as_json(answer), "certainty": certainty(answer, catalog.calibration)}
    for hit, each in zip(told["hits"], answer.hits, strict=True):
        hit["id"], hit["itself"] = each.id, each.itself
        hit["path"] = "/".join(Path(each.path).parts[-2:])
    return told
