"""`GET /`: the page, or name and version as JSON; `GET /page/…`: the files of the page."""

from collections.abc import Mapping
from importlib.metadata import version

from litestar import Response, get
from litestar.params import FromPath
from msgspec import Struct

from proxy.endpoints.server_request import ServerRequest
from proxy.errors import ExplainedHTTPError
from proxy.openapi import Operation
from proxy.page import PageFile, load_page

_FOR_EVER = "public, max-age=31536000, immutable"


class About(Struct):
    name: str
    version: str


@get(
    "/",
    operation=Operation(summary="The page for browsers; else name and version", answers=(About,)),
    access="public",
)
async def get_index(request: ServerRequest) -> Response[About] | Response[bytes]:
    vary = {"vary": "Accept"}
    if "text/html" in request.fields.get("accept", "").lower():
        return _to_response(request, load_page().index, vary | {"cache-control": "no-cache"})
    return Response(About(name="Tandem", version=version("tandem-proxy")), headers=vary)


@get(
    "/page/{edition:str}/{file:path}",
    operation=Operation(summary="A file of the page", answers=(str,)),
    access="public",
)
async def get_page_file(
    edition: FromPath[str], file: FromPath[str], request: ServerRequest
) -> Response[bytes]:
    page, name = load_page(), file.removeprefix("/")
    if name not in page.files:
        raise ExplainedHTTPError(status_code=404, detail=f"The page has no file '{name[:80]}'.")
    # The address of another version: the browser has an older document.
    caching = _FOR_EVER if edition == page.digest else "no-cache"
    return _to_response(request, page.files[name], {"cache-control": caching})


def _to_response(
    request: ServerRequest, file: PageFile, headers: Mapping[str, str]
) -> Response[bytes]:
    is_known = file.etag in request.fields.get("if-none-match", "")
    return Response(
        b"" if is_known else file.content,
        status_code=304 if is_known else 200,
        headers={**file.headers, **headers},
        media_type=file.headers["content-type"],
    )
