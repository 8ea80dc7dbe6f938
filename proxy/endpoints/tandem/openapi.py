"""`GET /openapi.json`, and at Litestar's default path, `GET /schema/openapi.json`.

There is no page that shows it: the usual ones load scripts from other servers.
"""

from typing import Any

from litestar import Response, get

from proxy.endpoints.server_request import ServerRequest
from proxy.openapi import Operation

_OPERATION = Operation(summary="This document", answers=(dict[str, Any],))


@get("/openapi.json", operation=_OPERATION)
async def get_openapi(request: ServerRequest) -> Response[bytes]:
    return Response(request.document.encoded(), media_type="application/json")


@get("/schema/openapi.json", operation=_OPERATION)
async def get_litestar_openapi(request: ServerRequest) -> Response[bytes]:
    return Response(request.document.encoded(), media_type="application/json")
