"""`POST /api/config/reload`: read the configuration again, as SIGHUP does."""

from litestar import post
from msgspec.structs import replace

from proxy.config_problems import ConfigError
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import ExplainedHTTPError
from proxy.openapi import Operation
from proxy.reload import Changed


@post(
    "/api/config/reload",
    status_code=200,
    operation=Operation(summary="Read config.yaml again", answers=(Changed,)),
    access="admin",
)
async def reload_config(request: ServerRequest) -> Changed:
    if not request.live.can_reload:
        raise ExplainedHTTPError(
            status_code=400,
            detail="This server has its settings from a program, not from a file.",
        )
    try:
        return request.live.reload()
    except ConfigError as exc:
        # Clients may be on other machines: the folder of the file is none of their business.
        told = "; ".join(str(replace(problem, file=None)) for problem in exc.problems)
        raise ExplainedHTTPError(
            status_code=400,
            detail=f"The new configuration is not valid, and the old one stays in use: {told}",
        ) from exc
