"""The memory of the models that the Ollamas of this machine have loaded, for whomever."""

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
    """When a model was seen to be used: each use moves the moment at which it expires."""

    expires_at: str
    at: float


class OllamaMemory:
    elastic = False

    def __init__(self, hosts: OllamaServers) -> None:
        self.hosts = hosts.local
        """Those of this machine."""
        self._own_gpu_memory = has_gpu_memory()
        self._seen: dict[tuple[str, str], _Sight] = {}

    def share_budget(self, room: MemoryBudget) -> None:
        for host in self.hosts:
            host.share_budget(room)

    async def recommended(self) -> int | None:
        return None

    async def footprint(self, model: str) -> Footprint | None:
        """On the first Ollama of this machine that has it."""
        for host in self.hosts:
            if host.has(model):
                return await host.footprint(model)
        return None

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        found: dict[str, Resident] = {}
        for host in self.hosts:
            for each in await self._resident_on(host, fresh):
                same = found.get(each.name)
                found[each.name] = each if same is None else _together(same, each)
        return list(found.values())

    async def confine(self, nbytes: int) -> int:
        """Ollama sets a model's context aside when it loads it: there is nothing to give back."""
        return 0

    async def unload_for_memory(self, model: str) -> None:
        for host in self.hosts:
            if any(tag.name == model for tag in await host.catalog.running()):
                await host.unload(model)

    async def _resident_on(self, host: OllamaServer, fresh: bool) -> list[Resident]:
        if host.is_away:
            return []
        return [
            Resident(
                name=tag.name,
                also=host.catalog.sharing(tag),
                footprint=to_footprint(
                    tag, await _facts(host, tag), own_gpu_memory=self._own_gpu_memory
                ),
                busy=host.is_answering(tag.name),
                used_at=max(self._sight(host, tag), host.work.of(tag.name).used_at),
            )
            for tag in await host.catalog.running(fresh=fresh)
        ]

    def _sight(self, host: OllamaServer, tag: Tag) -> float:
        key = (host.address, tag.name)
        known = self._seen.get(key)
        if known is None or (tag.expires_at and known.expires_at != tag.expires_at):
            known = self._seen[key] = _Sight(tag.expires_at, time.monotonic())
        return known.at


async def _facts(host: OllamaServer, tag: Tag) -> ModelInfo:
    try:
        if not host.has(tag.name):  # Its size on disk is in the list only.
            await host.models()
        return await host.catalog.facts(tag.name)
    except BackendError:
        return ModelInfo()


def to_footprint(tag: Tag, facts: ModelInfo, *, own_gpu_memory: bool) -> Footprint:
    """What a loaded model takes of this machine's memory, by a line of `/api/ps`.

    Without a GPU servers say 0, or the weights alone and call them a GPU's: there it is the file,
    and what its context costs. What lies in a GPU's own memory is none of this machine's.
    """
    if own_gpu_memory and tag.size:
        return Footprint(weights=tag.size - tag.size_vram, context=0)
    reckoned = facts.footprint(tag.context_length)
    if (tag.size or 0) > reckoned.known:
        return Footprint(weights=tag.size, context=0)
    return reckoned


def has_gpu_memory(devices: Path = Path("/dev")) -> bool:
    """Whether a GPU with a memory of its own is in this machine; a Mac's shares the machine's."""
    return any((devices / name).exists() for name in ("nvidia0", "kfd"))


def _together(one: Resident, other: Resident) -> Resident:
    """A model that two Ollamas of this machine have loaded."""
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
