"""`GET /openapi.json`, and where Litestar's users look for it: `GET /schema/openapi.json`.

There is no page to look at it with: those that there are come from somebody else's servers.
"""

from typing import Any

from litestar import Response, get

from proxy.endpoints.server_request import ServerRequest
from proxy.openapi import Operation

_TELL = Operation(summary="This document", answers=(dict[str, Any],))


@get("/openapi.json", operation=_TELL)
async def get_openapi(request: ServerRequest) -> Response[bytes]:
    return Response(request.document.encoded(request.app), media_type="application/json")


@get("/schema/openapi.json", operation=_TELL)
async def get_litestar_openapi(request: ServerRequest) -> Response[bytes]:
    return Response(request.document.encoded(request.app), media_type="application/json")
