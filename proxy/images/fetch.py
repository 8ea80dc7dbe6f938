"""An image of the web, fetched so that a request cannot make this server call its own network.

One parser reads the URL, for the checks and for the call; the name is resolved once, and the call
goes to that address. Two parsers, or a name asked for twice, are how others were deceived.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address

import httpx

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.config import ImagesConfig

_UNUSUAL = re.compile(r"[^!-~]|[\\<>\"{}|^`]")
"""What no URL holds that was not meant to be read in two ways."""
_PORTS = {"https": 443, "http": 80}
_TRANSLATED = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether `address` is somewhere on the internet, and does not stand for another one."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _TRANSLATED
    ):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class Fetcher:
    def __init__(self, config: ImagesConfig, is_allowed: Callable[[str], bool] = is_public) -> None:
        self._config = config
        self._hosts = frozenset(host.lower() for host in config.fetch_from)
        self._is_allowed = is_allowed

    async def fetch(self, text: str) -> bytes:
        """What is at `text`, a URL.

        Raises:
            UnsupportedParameterError: this server does not fetch from there.
            InvalidRequestError: it does, and there is no image to be had.
        """
        url = self._checked(text)
        address = await self._resolved(url)
        try:
            return await self._get(url, address)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL):
            raise _nothing_there() from None

    def _checked(self, text: str) -> httpx.URL:
        if not self._hosts:
            raise _refused("Images must be data: URLs: this server fetches none.")
        if _UNUSUAL.search(text):
            raise _refused("The URL of an image holds characters that no URL has.")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise InvalidRequestError("An image has no URL.", param="images") from None
        if url.scheme != "https" and not (url.scheme == "http" and self._config.plain_http):
            raise _refused("Images are fetched by https only.")
        if url.userinfo or _name(url) not in self._hosts:
            raise _refused("This server does not fetch images from there.")
        return url

    async def _resolved(self, url: httpx.URL) -> str:
        """The one address that is called; all that the name has must be public."""
        loop = asyncio.get_running_loop()
        port = url.port or _PORTS[url.scheme]
        try:
            found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _nothing_there() from None
        addresses = [str(each[4][0]) for each in found]
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise _refused("This server does not fetch images from there.")
        return addresses[0]

    async def _get(self, url: httpx.URL, address: str) -> bytes:
        # Reading the certificates takes as long as thirty short answers.
        context = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
        client = httpx.AsyncClient(
            verify=context,
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113 - the caller's deadline is around it.
        )
        async with client:
            request = httpx.Request(
                "GET",
                url.copy_with(host=address),
                headers={"host": url.netloc.decode(), "accept-encoding": "identity"},
                # The certificate must be that of the name.
                extensions={"sni_hostname": url.host},
            )
            response = await client.send(request, stream=True)
            try:
                return await self._body(response)
            finally:
                await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            raise _nothing_there()
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > self._config.max_bytes:
                raise InvalidRequestError("An image has too many bytes.", param="images")
        return bytes(content)


def _name(url: httpx.URL) -> str:
    """`images.example`, or `images.example:8443` where the port is not the usual one."""
    host = url.host.removesuffix(".")
    return host if url.port is None else f"{host}:{url.port}"


def _refused(message: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(message, param="images")


def _nothing_there() -> InvalidRequestError:
    return InvalidRequestError("An image could not be fetched.", param="images")
