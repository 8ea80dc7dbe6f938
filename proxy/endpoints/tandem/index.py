"""`GET /`: what this server is, as a page or as JSON."""

from importlib.metadata import version
from string import Template

from litestar import MediaType, Response, get
from msgspec import Struct

from proxy.endpoints.server_request import ServerRequest
from proxy.openapi import Operation

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tandem</title>
</head>
<body>
<h1>Tandem $version</h1>
<p>This is a server for language models. It is running.</p>
<ul>
<li>Base URL of OpenAI clients: <code>/v1</code> on this address</li>
<li><a href="/v1/models">Models</a></li>
<li><a href="/health">Health</a></li>
<li><a href="/openapi.json">All endpoints</a> (OpenAPI)</li>
</ul>
</body>
</html>
""")


class About(Struct):
    name: str
    version: str


@get(
    "/",
    operation=Operation(summary="Name and version; a page for browsers", answers=(About,)),
    access="public",
)
async def get_index(request: ServerRequest) -> Response[About] | Response[str]:
    about = About(name="Tandem", version=version("tandem-proxy"))
    vary = {"vary": "Accept"}
    if "text/html" in request.fields.get("accept", "").lower():
        page = _PAGE.substitute(version=about.version)
        return Response(page, media_type=MediaType.HTML, headers=vary)
    return Response(about, headers=vary)
