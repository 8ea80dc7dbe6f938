"""`GET /metrics`: figures by backend and model, from records, with bounded labels."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import httpx2
import pytest
from fakes.exposition import families, problems
from fakes.scripted_backend import HANG, ScriptedBackend, chat, http_client
from fakes.waiting import until

from adapters.backend import Health, Model
from adapters.errors import BackendUnavailableError, GenerationError
from adapters.events import Finished, PromptProgress, Started, TextDelta, Usage
from proxy.config import Config, ModelConfig

URL = "/v1/chat/completions"
USAGE = Usage(prompt_tokens=30, completion_tokens=2, cached_tokens=20)
ANSWER = (Started(cold=True), TextDelta("Hel"), TextDelta("lo"), Finished("stop", USAGE))
DASHBOARD = Path(__file__).parents[3] / "packaging" / "grafana" / "tandem.json"
EMBEDS = Model(name="m", capabilities=frozenset({"embedding"}))
BOTH = Config(models={"m": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="mlx")})


async def scrape(client: httpx2.AsyncClient) -> str:
    response = await client.get("/metrics")
    assert response.status_code == 200
    return response.text


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples called `name`, by the values of their labels in the order of the labels."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name
    }


async def test_answer_is_counted_by_backend_and_model():
    async with http_client(ScriptedBackend(ANSWER)) as client:
        await client.post(URL, json=chat())
        text = await scrape(client)
    assert values(text, "tandem_requests_total") == {("scripted", "", "m", "ok"): 1}
    assert values(text, "tandem_prompt_tokens_total") == {("scripted", "m"): 30}
    assert values(text, "tandem_cached_prompt_tokens_total") == {("scripted", "m"): 20}
    assert values(text, "tandem_completion_tokens_total") == {("scripted", "m"): 2}
    assert values(text, "tandem_cold_starts_total") == {("scripted", "m"): 1}


async def test_vectors_are_counted_with_the_tokens_that_were_read():
    async with http_client(ScriptedBackend(models=[EMBEDS])) as client:
        await client.post("/v1/embeddings", json={"model": "m", "input": ["a", "b"]})
        text = await scrape(client)
    assert values(text, "tandem_prompt_tokens_total") == {("scripted", "m"): 6}
    assert values(text, "tandem_completion_tokens_total") == {("scripted", "m"): 0}
    assert values(text, "gen_ai_server_time_to_first_token_seconds_count") == {}


async def test_answer_that_a_client_leaves_counts_as_far_as_it_came():
    script = [Started(), PromptProgress(9, 9, 4), TextDelta("a"), TextDelta("b"), HANG]
    backend = ScriptedBackend(script)
    async with http_client(backend) as client:
        leaving = asyncio.create_task(client.post(URL, json=chat()))
        await until(lambda: backend.running == 1)
        leaving.cancel()
        await until(lambda: backend.running == 0)
        text = await scrape(client)
    assert values(text, "tandem_prompt_tokens_total") == {("scripted", "m"): 9}
    assert values(text, "tandem_cached_prompt_tokens_total") == {("scripted", "m"): 4}
    assert values(text, "tandem_completion_tokens_total") == {("scripted", "m"): 2}


async def test_times_have_the_names_and_labels_of_opentelemetry():
    async with http_client(ScriptedBackend(ANSWER, kind="mlx")) as client:
        await client.post(URL, json=chat())
        await client.post("/v1/completions", json={"model": "m", "prompt": "Hi"})
        text = await scrape(client)
    assert set(values(text, "gen_ai_server_request_duration_seconds_count")) == {
        ("", "chat", "mlx", "m", "m"),
        ("", "text_completion", "mlx", "m", "m"),
    }
    for name in ("time_to_first_token", "time_per_output_token"):
        counts = values(text, f"gen_ai_server_{name}_seconds_count")
        assert counts[("chat", "mlx", "m", "m")] == 1
    buckets = [key[-1] for key in values(text, "gen_ai_server_request_duration_seconds_bucket")]
    assert sorted(set(buckets), key=float)[:3] == ["0.01", "0.02", "0.04"]


async def test_failure_is_counted_by_its_code_and_has_no_time_to_first_token():
    async with http_client(ScriptedBackend([GenerationError("no")])) as client:
        await client.post(URL, json=chat())
        text = await scrape(client)
    assert values(text, "tandem_requests_total") == {
        ("scripted", "generation_failed", "m", "error"): 1
    }
    assert values(text, "gen_ai_server_time_to_first_token_seconds_count") == {}


async def test_requests_that_ask_no_model_for_an_answer_are_not_counted():
    async with http_client(ScriptedBackend()) as client:
        await client.post("/api/models/m/load", json={})
        await client.post("/api/chat", json={"model": "m", "messages": []})
        await client.post("/api/models/m/unload", json={})
        await client.get("/v1/models/unknown")
        await client.post("/api/route", json=chat())
        text = await scrape(client)
    assert values(text, "tandem_requests_total") == {}
    assert values(text, "gen_ai_server_request_duration_seconds_count") == {}


async def test_request_with_a_wrong_field_is_counted():
    async with http_client(ScriptedBackend()) as client:
        await client.post(URL, json=chat(top_p=5))
        text = await scrape(client)
    (labels,) = values(text, "tandem_requests_total")
    assert labels[0] == "none"
    assert labels[2:] == ("other", "error")


async def test_fallback_is_counted_by_what_failed():
    away = ScriptedBackend([BackendUnavailableError("down")], kind="mlx")
    async with http_client(away, ScriptedBackend(kind="ollama"), config=BOTH) as client:
        await client.post(URL, json=chat())
        text = await scrape(client)
    assert values(text, "tandem_fallbacks_total") == {("mlx", "backend_unavailable"): 1}


async def test_unknown_models_share_one_label():
    async with http_client(ScriptedBackend()) as client:
        for at in range(5):
            await client.post(URL, json=chat(model=f"unknown-{at}"))
        text = await scrape(client)
    assert "unknown-" not in text
    assert values(text, "tandem_requests_total") == {
        ("none", "model_not_found", "other", "error"): 5
    }


async def test_running_requests_are_counted_when_they_wait_and_when_they_run():
    reading = ScriptedBackend([Started(), PromptProgress(3, 9, 0), HANG], kind="mlx")
    waiting = ScriptedBackend([HANG], kind="ollama", models=[Model(name="w")])
    async with http_client(reading, waiting) as client, asyncio.TaskGroup() as tasks:
        bodies = (chat(), chat(model="w"))
        running = [tasks.create_task(client.post(URL, json=body)) for body in bodies]
        await until(lambda: reading.running == 1 and waiting.running == 1)
        text = await scrape(client)
        for task in running:
            task.cancel()
    assert values(text, "tandem_requests_running") == {("mlx", "m"): 1}
    assert values(text, "tandem_requests_waiting") == {("ollama", "w"): 1}
    assert values(text, "tandem_num_requests_running") == {(): 1}
    assert values(text, "tandem_num_requests_waiting") == {(): 1}


async def test_gauges_tell_backends_models_and_the_cache_in_use():
    well = Health(ok=True, counters={"kv_bytes": 25, "kv_limit_bytes": 100})
    models = [Model(name="m", loaded=True), Model(name="n", loaded=False)]
    async with http_client(ScriptedBackend(health=well, models=models)) as client:
        await client.get("/v1/models")
        text = await scrape(client)
    assert values(text, "tandem_backend_up") == {("scripted",): 1}
    assert values(text, "tandem_model_loaded") == {("scripted", "m"): 1, ("scripted", "n"): 0}
    assert values(text, "tandem_kv_cache_usage_ratio") == {(): 0.25}
    assert values(text, "tandem_memory_budget_bytes")[()] > 0


async def test_openmetrics_is_sent_when_it_is_accepted():
    async with http_client(ScriptedBackend()) as client:
        response = await client.get(
            "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
        )
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.count("# EOF\n") == 1
    assert response.text.endswith("# EOF\n")


async def exposition_of_everything() -> str:
    """A scrape after an answer, a failure and a fallback."""
    away = ScriptedBackend([BackendUnavailableError("down")], kind="mlx")
    other = ScriptedBackend(ANSWER, kind="ollama", models=[Model(name="m", loaded=True)])
    async with http_client(away, other, config=BOTH) as client:
        await client.post(URL, json=chat())
        await client.post(URL, json=chat(model="none"))
        return await scrape(client)


async def test_metrics_pass_the_rules_of_promtool():
    text = await exposition_of_everything()
    assert len(families(text)) > 15
    assert problems(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "# TYPE a_total gauge\na_total 1\n",
        "# HELP a_ms Time.\n# TYPE a_ms gauge\na_ms 1\n",
        "# HELP a_gauge A.\n# TYPE a_gauge gauge\na_gauge 1\n",
        "# HELP aB A.\n# TYPE aB gauge\naB 1\n",
        '# HELP a A.\n# TYPE a gauge\na{le="1"} 1\n',
    ],
)
def test_rules_notice_what_promtool_would(text: str):
    assert problems(text)


@pytest.mark.process
async def test_promtool_finds_nothing():
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed; the test of its rules runs instead")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(promtool, "check", "metrics"), stdin=pipe, stdout=pipe, stderr=pipe
    )
    out, err = await process.communicate((await exposition_of_everything()).encode())
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_every_query_of_the_dashboard_uses_exported_metrics():
    text = await exposition_of_everything()
    exported = {
        sample.name: {*sample.labels} for f in families(text).values() for sample in f.samples
    }
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    queries += [variable["query"] for variable in dashboard["templating"]["list"][1:]]
    used = {name for query in queries for name in re.findall(r"\b(?:tandem|gen_ai)_\w+", query)}
    labels = {"gen_ai_provider_name", "gen_ai_request_model"}
    assert len(queries) >= 12
    assert used - labels - exported.keys() - families(text).keys() == set()
    by = {
        label.strip()
        for query in queries
        for group in re.findall(r"by \(([^)]*)\)", query)
        for label in group.split(",")
    }
    assert by - set().union(*exported.values()) == set()
