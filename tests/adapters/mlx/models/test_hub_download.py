"""Download from the hub, with a local server in its place."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from fakes.hub_server import Hub, serving_hub
from fakes.tiny_model import write_tiny_model

from adapters.audio import Voice
from adapters.backend import Progress
from adapters.config import MLXConfig
from adapters.errors import (
    BackendUnavailableError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.mlx.audio.kinds import AudioKind, own_voices
from adapters.mlx.backend import MLXBackend
from adapters.mlx.models.catalog import find_models
from adapters.mlx.models.hub_download import pull

pytestmark = [pytest.mark.process, pytest.mark.long]

TINY = "someone/tiny"
CONFIG = MLXConfig(embedded="never", cache_folder="/nowhere")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(TINY, write_tiny_model(tmp_path / "model"))
    hub.files["code.py"] = b"raise SystemExit"
    with serving_hub(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield hub


def names() -> list[str]:
    return list(find_models(CONFIG))


async def test_model_is_listed_after_its_download(hub: Hub):
    assert names() == []
    reports = [progress async for progress in pull(TINY)]
    total = sum(len(data) for name, data in hub.files.items() if name != "code.py")
    assert reports[-1] == Progress(status="success")
    assert reports[-2] == Progress(status="fetching config.json", completed=total, total=total)
    done = [report.completed for report in reports[:-1] if report.completed is not None]
    assert done == sorted(done)
    assert names() == [TINY]
    assert hub.fetched[-1] == "config.json"
    assert "code.py" not in hub.fetched


async def test_other_weights_beside_those_of_a_text_model_stay_where_they_are(hub: Hub):
    hub.files["consolidated.safetensors"] = b"a second copy"
    hub.files["2_Dense/model.safetensors"] = b"a layer after the model"
    async for _ in pull(TINY):
        pass
    assert {"model.safetensors", "2_Dense/model.safetensors"} <= {*hub.fetched}
    assert "consolidated.safetensors" not in hub.fetched


async def test_a_speech_model_comes_with_its_voices_and_weights_of_any_name(hub: Hub):
    weights = hub.files.pop("model.safetensors")
    config = {"model_type": "kokoro"}
    hub.files = {
        "config.json": json.dumps(config).encode(),
        "kokoro-v1_0.safetensors": weights,
        "voices/af_heart.safetensors": weights,
        "voices/af_heart.pt": b"pickle",
    }
    async for _ in pull(TINY):
        pass
    assert "voices/af_heart.pt" not in hub.fetched
    (model,) = find_models(CONFIG).values()
    assert model.path is not None
    assert own_voices(AudioKind("speech", "kokoro"), model.path) == [
        Voice(id="af_heart", language="en-US")
    ]


async def test_stopped_download_is_not_listed_and_can_be_resumed(hub: Hub, tmp_path: Path):
    hub.stalls_at = "tokenizer.json"  # The second file.
    seen: list[Progress] = []
    async with aclosing(pull(TINY)) as steps:
        async for progress in steps:
            if progress in seen:  # Repeated once the file is complete.
                break
            seen.append(progress)
    assert names() == []
    assert list((tmp_path / "hub").rglob("*.incomplete")) == []
    hub.stalls_at = None
    hub.resume.set()
    async for _ in pull(TINY):
        pass
    assert hub.fetched.count("model.safetensors") == 1
    assert names() == [TINY]


async def test_unknown_repository_is_not_found(hub: Hub):
    with pytest.raises(ModelNotFoundError, match="The hub has no repository") as caught:
        await anext(pull("someone/other"))
    assert caught.value.param == "model"


async def test_repository_without_safetensors_is_rejected(hub: Hub):
    del hub.files["model.safetensors"]
    with pytest.raises(ModelNotFoundError, match="no safetensors"):
        await anext(pull(TINY))
    assert hub.fetched == []


async def test_unreachable_hub_is_unavailable(hub: Hub):
    hub.broken = True
    with pytest.raises(BackendUnavailableError, match="cannot be fetched"):
        await anext(pull(TINY))


async def test_download_is_rejected_when_the_cache_is_switched_off(hub: Hub):
    backend = MLXBackend(MLXConfig(huggingface_cache=False))
    async with aclosing(backend):
        with pytest.raises(UnsupportedParameterError, match="huggingface_cache"):
            await anext(backend.pull(TINY))
    assert hub.fetched == []


async def test_download_ends_when_closed_while_stalled(hub: Hub, tmp_path: Path):
    hub.stalls_at = "model.safetensors"
    hub.files["model.safetensors"] += b"\0" * 30_000_000  # More than the client reads at once.
    steps = pull(TINY)

    async def download() -> list[Progress]:
        return [progress async for progress in steps]

    downloading = asyncio.create_task(download())
    assert await asyncio.to_thread(hub.has_stalled.wait, 60)
    downloading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await downloading
    await steps.aclose()
    assert list((tmp_path / "hub").rglob("*.incomplete")) == []
