"""Memory accounting for the models that the Ollama servers of this machine have loaded."""

import time
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.memory import Footprint, MemoryBudget, Resident
from adapters.ollama.model_info import ModelInfo
from adapters.ollama.server import OllamaServer
from adapters.ollama.servers import OllamaServers
from adapters.ollama.wire import Tag


class _Sight(Struct):
    """Time of the last use of a model, by any client: each use moves `expires_at`."""

    expires_at: str
    at: float


class OllamaMemory:
    elastic = False

    def __init__(self, servers: OllamaServers) -> None:
        self.servers = servers.local
        """Servers on this machine."""
        self._own_gpu_memory = has_gpu_memory()
        self._seen: dict[tuple[str, str], _Sight] = {}

    def share_budget(self, room: MemoryBudget) -> None:
        for server in self.servers:
            server.share_budget(room)

    async def recommended(self) -> int | None:
        return None

    async def footprint(self, model: str) -> Footprint | None:
        """Estimate for the first server of this machine that has `model`."""
        for server in self.servers:
            if server.has(model):
                return await server.footprint(model)
        return None

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        by_name: dict[str, Resident] = {}
        for server in self.servers:
            for resident in await self._resident_on(server, fresh):
                same = by_name.get(resident.name)
                by_name[resident.name] = resident if same is None else _together(same, resident)
        return list(by_name.values())

    async def confine(self, nbytes: int) -> int:
        """Free nothing: Ollama allocates a model's context when it loads it."""
        return 0

    async def unload_for_memory(self, model: str) -> None:
        for server in self.servers:
            if any(tag.name == model for tag in await server.catalog.running()):
                await server.unload(model)

    async def _resident_on(self, server: OllamaServer, fresh: bool) -> list[Resident]:
        if server.is_away:
            return []
        return [
            Resident(
                name=tag.name,
                also=server.catalog.sharing(tag),
                footprint=to_footprint(
                    tag, await _facts(server, tag), own_gpu_memory=self._own_gpu_memory
                ),
                busy=server.is_answering(tag.name),
                used_at=max(self._sight(server, tag), server.work.of(tag.name).used_at),
            )
            for tag in await server.catalog.running(fresh=fresh)
        ]

    def _sight(self, server: OllamaServer, tag: Tag) -> float:
        key = (server.address, tag.name)
        known = self._seen.get(key)
        if known is None or (tag.expires_at and known.expires_at != tag.expires_at):
            known = self._seen[key] = _Sight(tag.expires_at, time.monotonic())
        return known.at


async def _facts(server: OllamaServer, tag: Tag) -> ModelInfo:
    try:
        if not server.has(tag.name):  # Only the list has its size on disk.
            await server.models()
        return await server.catalog.facts(tag.name)
    except BackendError:
        return ModelInfo()


def to_footprint(tag: Tag, facts: ModelInfo, *, own_gpu_memory: bool) -> Footprint:
    """Estimate a loaded model's share of this machine's memory from its entry in `/api/ps`.

    Without a GPU servers report 0, or the weights alone as a GPU's: then it is the file, and the
    cost of its context. A GPU's own memory is not counted.
    """
    if own_gpu_memory and tag.size:
        return Footprint(weights=tag.size - tag.size_vram, context=0)
    estimate = facts.footprint(tag.context_length)
    if (tag.size or 0) > estimate.known:
        return Footprint(weights=tag.size, context=0)
    return estimate


def has_gpu_memory(devices: Path = Path("/dev")) -> bool:
    """True where this machine has a GPU with its own memory; a Mac's GPU shares the machine's."""
    return any((devices / name).exists() for name in ("nvidia0", "kfd"))


def _together(one: Resident, other: Resident) -> Resident:
    """Add up a model that two servers of this machine have loaded."""
    return replace(
        one,
        also=one.also | other.also,
        footprint=Footprint(
            weights=one.footprint.known + other.footprint.known,
            context=0,
        ),
        busy=one.busy or other.busy,
        used_at=max(one.used_at, other.used_at),
    )
