"""Download images from the web without server-side request forgery (SSRF).

The URL is parsed once, for the checks and for the request. Its host name is resolved once, and the
request goes to the address that was checked. A second parser or a second resolution can yield
another address, which is how SSRF checks are usually bypassed.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.config import ImagesConfig

_AMBIGUOUS = re.compile(r"[^!-~]|[\\<>\"{}|^`]")
"""Characters that URL parsers interpret differently; no valid URL contains them."""
_PORTS = {"https": 443, "http": 80}
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that was ever assigned to the internet; anything else is local, embeds an IPv4 address, or is
reserved. Source: https://www.iana.org/assignments/ipv6-address-space"""
_SPECIAL = (
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4, which embeds an IPv4 address
    IPv6Network("3fff::/20"),  # documentation
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # the relays of 6to4
)
"""Ranges within the public ones that are not of the internet, on any version of Python. Source:
https://www.iana.org/assignments/iana-ipv6-special-registry and iana-ipv4-special-registry"""


def is_public(address: str) -> bool:
    """Return True if `address` is a global unicast address without an embedded IPv4 address."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    if any(ip in network for network in _SPECIAL):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class Fetcher:
    """Downloads images from the hosts that the config allows."""

    def __init__(self, config: ImagesConfig, is_allowed: Callable[[str], bool] = is_public) -> None:
        self._config = config
        self._hosts = frozenset(host.lower() for host in config.fetch_from)
        self._is_allowed = is_allowed

    async def fetch(self, text: str) -> bytes:
        """Download the image at the URL `text`.

        Raises:
            UnsupportedParameterError: the config does not allow the URL, or its address is not
                public.
            InvalidRequestError: the download failed, or has more than `max_bytes` bytes.
        """
        if not self._hosts:
            raise _refused("Images must be data: URLs; this server downloads no images.")
        if _AMBIGUOUS.search(text):
            raise _refused("The URL of an image contains invalid characters.")
        try:
            url = httpx.URL(text)
            host = url.host.removesuffix(".")  # Decodes Punycode, which may be wrong.
        except (httpx.InvalidURL, UnicodeError):
            raise InvalidRequestError("The URL of an image is invalid.", param="images") from None
        if url.scheme != "https" and not (url.scheme == "http" and self._config.plain_http):
            raise _refused("The URL of an image must begin with https://.")
        host_and_port = host if url.port is None else f"{host}:{url.port}"
        if url.userinfo or host_and_port not in self._hosts:
            raise _refused("This server does not download images from the host of that URL.")
        address = await self._resolve(url)
        try:
            return await self._get(url, address)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL):
            raise _failed() from None

    async def _resolve(self, url: httpx.URL) -> str:
        """Resolve the host name once; every address it has must be public."""
        loop = asyncio.get_running_loop()
        port = url.port or _PORTS[url.scheme]
        try:
            infos = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _failed() from None
        addresses = [str(info[4][0]) for info in infos]
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise _refused("This server does not download images from the host of that URL.")
        return addresses[0]

    async def _get(self, url: httpx.URL, address: str) -> bytes:
        # In a thread: loading the certificates takes as long as thirty short answers.
        context = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
        client = httpx.AsyncClient(
            verify=context,
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113 - the caller applies a timeout.
        )
        async with client:
            request = httpx.Request(
                "GET",
                url.copy_with(host=address),
                headers={"host": url.netloc.decode(), "accept-encoding": "identity"},
                # Verify the certificate against the host name, not the address.
                extensions={"sni_hostname": url.host},
            )
            response = await client.send(request, stream=True)
            try:
                return await self._body(response)
            finally:
                await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            raise _failed()
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > self._config.max_bytes:
                raise InvalidRequestError(
                    f"An image has more than {self._config.max_bytes} bytes.", param="images"
                )
        return bytes(content)


def _refused(message: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(message, param="images")


def _failed() -> InvalidRequestError:
    return InvalidRequestError("An image could not be downloaded.", param="images")
