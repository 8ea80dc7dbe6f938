"""The models of all backends, as Ollama's own client lists and describes them."""

import json
from contextlib import aclosing
from typing import Any

import httpx
import ollama
import pytest
from fakes.scripted_backend import ScriptedBackend, ScriptedBuilder, http_client

from adapters.backend import (
    Backend,
    Description,
    Embeddings,
    Model,
    ModelDetails,
    RunningModel,
    TensorInfo,
)
from adapters.errors import BackendUnavailableError, ContextLengthError
from adapters.request import EmbeddingRequest
from adapters.upstream.behind import SERVER_HEADER, SERVER_ID
from proxy.app import create_app
from proxy.config import Config, ModelConfig

QWEN = Model(
    name="org/Qwen-4bit",
    context_length=32768,
    capabilities=frozenset({"chat", "tools", "reasoning"}),
    size_bytes=10,
    quantization="4-bit",
    created=1_700_000_000,
    details=ModelDetails(
        embedding_length=4096,
        format="safetensors",
        family="qwen3",
        families=("qwen3",),
        parameter_size="4.0B",
    ),
)
LLAMA = Model(
    name="llama3.2:latest",
    digest="sha256:" + 64 * "a",
    capabilities=frozenset({"chat"}),
    details=ModelDetails(format="gguf", family="llama"),
)
FACTS: dict[str, Any] = {"general.architecture": "qwen3", "qwen3.block_count": 36}
DIGEST = "sha256:" + 64 * "0"


def engines() -> tuple[ScriptedBackend, ScriptedBuilder]:
    mlx = ScriptedBackend(kind="mlx", models=[QWEN])
    mlx.described = Description(
        facts=FACTS, template="{{ x }}", tensors=(TensorInfo("w", "BF16", (2, 3)),)
    )
    mlx.loaded = (RunningModel(name=QWEN.name, size_bytes=100, context_length=32768),)
    return mlx, ScriptedBuilder(kind="ollama", models=[LLAMA])


async def test_models_of_both_engines_are_listed_with_their_details():
    async with http_client(*engines()) as client:
        models = (await client.get("/api/tags")).json()["models"]
    qwen, llama = sorted(models, key=lambda model: model["name"], reverse=True)
    assert qwen["name"] == qwen["model"] == "org/Qwen-4bit"
    assert (qwen["size"], qwen["modified_at"]) == (10, "2023-11-14T22:13:20Z")
    assert qwen["capabilities"] == ["completion", "tools", "thinking"]
    assert qwen["details"] == {
        "parent_model": "",
        "format": "safetensors",
        "family": "qwen3",
        "families": ["qwen3"],
        "parameter_size": "4.0B",
        "quantization_level": "4-bit",
        "context_length": 32768,
        "embedding_length": 4096,
    }
    assert len(qwen["digest"]) == 64
    assert (llama["name"], llama["digest"]) == ("llama3.2:latest", 64 * "a")


@pytest.mark.parametrize("field", ["model", "name"])
async def test_model_is_shown_with_what_clients_require(field: str):
    async with http_client(*engines()) as client:
        shown = (await client.post("/api/show", json={field: "Qwen-4bit"})).json()
    info = shown["model_info"]
    assert info["general.architecture"] == "qwen3"
    assert info["general.basename"] == "Qwen-4bit"
    assert (info["qwen3.context_length"], info["qwen3.block_count"]) == (32768, 36)
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert (shown["template"], shown["details"]["family"]) == ("{{ x }}", "qwen3")
    assert shown["tensors"] == [{"name": "w", "type": "BF16", "shape": [2, 3]}]


async def test_loaded_models_are_listed_with_memory_and_time():
    async with http_client(*engines()) as client:
        (running,) = (await client.get("/api/ps")).json()["models"]
    assert (running["name"], running["size"], running["size_vram"]) == (QWEN.name, 100, 0)
    assert running["context_length"] == 32768
    assert running["expires_at"] > "2200"


async def names_of_loaded(mlx: Backend, other: Backend, **aliases: ModelConfig) -> list[str]:
    async with http_client(mlx, other, config=Config(models=aliases)) as client:
        return [model["name"] for model in (await client.get("/api/ps")).json()["models"]]


async def test_loaded_model_has_all_names_that_it_is_listed_under():
    """Clients look for the name that they sent, which may be an alias."""
    alias = ModelConfig(names={"mlx": QWEN.name})
    assert await names_of_loaded(*engines(), fast=alias) == ["fast", QWEN.name]


async def test_name_on_another_backend_is_not_loaded():
    mlx, other = engines()
    both = ModelConfig(names={"mlx": QWEN.name, "ollama": LLAMA.name})
    assert await names_of_loaded(mlx, other, fast=both) == ["fast", QWEN.name]
    other.loaded = (RunningModel(name=LLAMA.name),)
    assert await names_of_loaded(mlx, other, fast=both) == ["fast", QWEN.name, LLAMA.name]


async def test_model_that_was_never_listed_is_shown_while_it_is_loaded():
    mlx, other = engines()
    mlx.loaded = (RunningModel(name="/a/folder"),)
    assert await names_of_loaded(mlx, other) == ["/a/folder"]


async def test_unreachable_backend_hides_no_other():
    class Away(ScriptedBackend):
        async def list_running(self) -> list[RunningModel]:
            raise BackendUnavailableError("gone")

    mlx, _ = engines()
    async with http_client(mlx, Away(kind="ollama")) as client:
        assert len((await client.get("/api/ps")).json()["models"]) == 1


async def test_version_is_one_that_clients_accept():
    async with http_client(ScriptedBackend()) as client:
        version = (await client.get("/api/version")).json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)


async def test_default_tag_is_no_part_of_the_name():
    """Ollama's clients add `:latest` to names without a tag."""
    async with http_client(*engines()) as client:
        for name in ("org/Qwen-4bit:latest", "Qwen-4bit:latest", "llama3.2"):
            body = {"model": name, "prompt": "Hi", "stream": False}
            assert (await client.post("/api/generate", json=body)).status_code == 200, name


@pytest.mark.parametrize("path", ["/api/show", "/api/generate", "/api/embed", "/api/delete"])
async def test_unknown_model_is_a_404_in_the_dialects_shape(path: str):
    method = "DELETE" if path == "/api/delete" else "POST"
    async with http_client(*engines()) as client:
        response = await client.request(method, path, json={"model": "nope", "prompt": "Hi"})
    assert response.status_code == 404
    assert response.json() == {"error": "Model 'nope' not found."}


async def test_inputs_are_embedded_in_their_order():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        body = {"model": "m", "input": ["a", "b"], "dimensions": 2}
        answer = (await client.post("/api/embed", json=body)).json()
        old = (await client.post("/api/embeddings", json={"model": "m", "prompt": "a"})).json()
    assert (answer["model"], answer["embeddings"]) == ("m", [[0.6, -0.8]] * 2)
    assert answer["prompt_eval_count"] == 6
    assert old == {"embedding": [0.6, -0.8]}
    assert [r.inputs for r in backend.embedded] == [("a", "b"), ("a",)]


async def test_dimensions_of_0_are_all():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        body = {"model": "m", "input": "a", "dimensions": 0}
        assert (await client.post("/api/embed", json=body)).status_code == 200
    assert backend.embedded[0].dimensions is None


@pytest.mark.parametrize(("sent", "cuts"), [({}, True), ({"truncate": False}, False)])
async def test_inputs_are_cut_unless_the_client_forbids_it(sent: dict[str, bool], cuts: bool):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        await client.post("/api/embed", json={"model": "m", "input": "a", **sent})
    assert backend.embedded[0].truncate == cuts


@pytest.mark.parametrize(
    ("truncate", "words"),
    [
        (False, "the input length exceeds the context length"),
        (True, "input after truncation exceeds maximum context length"),
    ],
)
async def test_input_that_is_too_long_is_refused_in_ollamas_words_as_well(
    truncate: bool, words: str
):
    class Short(ScriptedBackend):
        async def embed(self, request: EmbeddingRequest) -> Embeddings:
            raise ContextLengthError("It has 8 tokens.", param="inputs")

    async with http_client(Short()) as client:
        body = {"model": "m", "input": "a", "truncate": truncate}
        response = await client.post("/api/embed", json=body)
    assert response.status_code == 400
    assert response.json() == {"error": f"It has 8 tokens. ({words})"}


async def test_old_embedding_never_cuts_its_text():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        body = {"model": "m", "prompt": "a", "truncate": True}
        response = await client.post("/api/embeddings", json=body)
    assert response.headers["x-tandem-ignored"] == "truncate"
    assert backend.embedded[0].truncate is False


@pytest.mark.parametrize("nothing", ["", [], None])
async def test_without_text_an_embedding_model_is_loaded(nothing: Any):
    model = Model(name="m", capabilities=frozenset({"embedding"}))
    backend = ScriptedBackend(models=[model])
    async with http_client(backend) as client:
        answer = (await client.post("/api/embed", json={"model": "m", "input": nothing})).json()
    assert answer == {"model": "m", "embeddings": []}
    assert not backend.embedded


async def test_empty_text_in_a_list_is_embedded():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post("/api/embed", json={"model": "m", "input": ["a", ""]})
    assert (response.status_code, backend.embedded[0].inputs) == (200, ("a", ""))


async def test_commands_reach_the_backend_that_has_the_model():
    mlx, builder = engines()
    app = create_app(Config(), {"mlx": mlx, "ollama": builder})
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    client = ollama.AsyncClient("http://127.0.0.1:8006", transport=transport)
    async with app.lifespan():
        await client.copy("llama3.2", "mine")
        await client.delete("llama3.2")
        await client.delete("org/Qwen-4bit")
        steps = await client.create("new", from_="llama3.2", system="x", stream=True)
        async with aclosing(steps) as lines:  # pyright: ignore[reportArgumentType]
            assert [line.status async for line in lines] == ["success"]
        assert (await client.pull("mlx/org/other")).status == "success"
    assert builder.copies == [("llama3.2:latest", "mine")]
    assert (builder.deleted, mlx.deleted) == (["llama3.2:latest"], ["org/Qwen-4bit"])
    assert b'"from":"llama3.2:latest"' in builder.recipes[0]


@pytest.mark.parametrize(("base", "sent"), [("both", LLAMA.name), ("new:1b", "new:1b")])
async def test_model_is_made_from_one_by_any_of_its_names(base: str, sent: str):
    mlx, builder = engines()
    both = ModelConfig(names={"mlx": QWEN.name, "ollama": LLAMA.name})
    async with http_client(mlx, builder, config=Config(models={"both": both})) as client:
        response = await client.post("/api/create", json={"model": "mine", "from": base})
    assert response.status_code == 200
    assert json.loads(builder.recipes[0])["from"] == sent


async def test_model_is_not_made_from_one_of_another_engine():
    mlx, builder = engines()
    async with http_client(mlx, builder) as client:
        response = await client.post("/api/create", json={"model": "mine", "from": QWEN.name})
    assert response.status_code == 400
    assert "is not a model of Ollama" in response.json()["error"]
    assert not builder.recipes


async def test_model_on_both_engines_is_deleted_where_it_has_the_name():
    mlx, builder = engines()
    both = ModelConfig(names={"mlx": QWEN.name, "ollama": LLAMA.name})
    async with http_client(mlx, builder, config=Config(models={"both": both})) as client:
        await client.request("DELETE", "/api/delete", json={"model": LLAMA.name})
    assert (builder.deleted, mlx.deleted) == ([LLAMA.name], [])


@pytest.mark.parametrize("name", ["both", "both:latest", "ollama/both", f"ollama/{QWEN.name}"])
async def test_model_is_not_deleted_by_an_alias_or_its_name_on_another_backend(name: str):
    mlx, builder = engines()
    both = ModelConfig(names={"mlx": QWEN.name, "ollama": LLAMA.name})
    async with http_client(mlx, builder, config=Config(models={"both": both})) as client:
        response = await client.request("DELETE", "/api/delete", json={"model": name})
    assert response.status_code == 400
    assert f"'ollama/{LLAMA.name}'" in response.json()["error"]
    assert (builder.deleted, mlx.deleted) == ([], [])


async def test_model_is_deleted_by_a_short_name():
    mlx, builder = engines()
    async with http_client(mlx, builder) as client:
        await client.request("DELETE", "/api/delete", json={"model": "qwen-4bit"})
    assert (builder.deleted, mlx.deleted) == ([], [QWEN.name])


async def test_file_is_uploaded_once_and_found():
    _, builder = engines()
    async with http_client(builder) as client:
        url = f"/api/blobs/{DIGEST}"
        assert (await client.head(url)).status_code == 404
        made = await client.post(url, content=b"weights")
        assert (made.status_code, made.content) == (201, b"")
        assert "content-type" not in made.headers
        assert (await client.head(url)).status_code == 200
        assert (await client.post(url, content=b"weights")).status_code == 200
    assert builder.files == {DIGEST: b"weights"}


@pytest.mark.parametrize("digest", ["..", "sha256:1", "sha256%3A" + 63 * "0", "x" + DIGEST])
async def test_digest_that_is_none_is_refused(digest: str):
    _, builder = engines()
    async with http_client(builder) as client:
        response = await client.post(f"/api/blobs/{digest}", content=b"x")
    assert response.status_code in (400, 404, 405)
    assert not builder.files


async def test_insecure_registry_is_refused_by_name():
    async with http_client(*engines()) as client:
        response = await client.post("/api/pull", json={"model": "x", "insecure": True})
    assert response.status_code == 400
    assert "'insecure'" in response.json()["error"]


async def test_tandem_is_told_of_the_servers_behind_this_one():
    async with http_client(*engines()) as client:
        assert "servers" not in (await client.get("/api/tags")).json()
        told = await client.get("/api/tags", headers={SERVER_HEADER: "other"})
    assert told.json()["servers"] == [SERVER_ID]
