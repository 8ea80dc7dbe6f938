"""`GET /api/connect`: settings with which clients use this server, as `tandem connect` has them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from litestar import get
from litestar.params import FromQuery
from msgspec import Struct

from proxy.connect.clients import CLIENTS, Client
from proxy.connect.merge import rendered
from proxy.connect.settings import MASK, Server, Settings, User
from proxy.endpoints.openai.models import LISTING_SECONDS, find_card
from proxy.endpoints.server_request import ServerRequest
from proxy.openapi import Operation

_PLACEHOLDER = "MODEL"
_USER = User(Path("~"))
"""The user of the browser, which may be on another machine: the usual folders."""


class SettingsText(Struct, kw_only=True):
    title: str
    """A file of the client, `~` being the user's home, or its language."""
    text: str


class ClientSettings(Struct, kw_only=True):
    client: str
    """The name for `tandem connect`."""
    title: str
    proof: str | None
    """The program that was run with them; `null`: they follow the documentation of the client."""
    texts: list[SettingsText]
    """Files to merge the settings into, lines of a program, or steps by hand."""
    next_step: str | None


class ClientList(Struct, kw_only=True):
    key: str
    """Text in place of the key, which is not sent to the server for this."""
    clients: list[ClientSettings]


@get(
    "/api/connect",
    operation=Operation(summary="Settings of clients for this server", answers=(ClientList,)),
)
async def list_client_settings(
    request: ServerRequest,
    url: FromQuery[str | None] = None,
    model: FromQuery[str | None] = None,
    keyed: FromQuery[bool] = False,
) -> ClientList:
    """List the settings of all clients.

    `url`: the address by which they reach this server, by default that of the request; `model`:
    any name of the model that they begin with; `keyed`: with the place of a key.
    """
    url = url or f"http://{request.fields.get('host', '')}"
    key = MASK if keyed else None
    if model is None:
        server = Server(url=url, model=_PLACEHOLDER, key=key)
    else:
        await request.registry.refresh(LISTING_SECONDS, only_new=True)
        card = await find_card(request.router, model)
        server = Server.with_model(
            card.id, card.context_length, card.capabilities, url=url, key=key
        )
    # In a thread: the parsers of YAML and TOML take 200 ms to import.
    return await asyncio.to_thread(_to_list, server)


def _to_list(server: Server) -> ClientList:
    clients = [_to_settings(name, client, server) for name, client in CLIENTS.items()]
    return ClientList(key=MASK, clients=clients)


def _to_settings(name: str, client: Client, server: Server) -> ClientSettings:
    settings = client.settings(server, _USER)
    return ClientSettings(
        client=name,
        title=client.title,
        proof=client.proof,
        texts=list(_texts(settings)),
        next_step=settings.next_step or None,
    )


def _texts(settings: Settings) -> Iterator[SettingsText]:
    for part in settings.parts:
        yield SettingsText(title=str(part.path), text="\n".join(rendered(part)))
    if settings.text:
        yield SettingsText(title=settings.language, text=settings.text)
