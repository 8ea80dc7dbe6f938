"""`GET /api/health`."""

import httpx2
import pytest
from fakes.scripted_backend import BASE, WELL, ScriptedBackend, http_client

from adapters.backend import Health
from proxy.app import create_app
from proxy.config import Config
from proxy.endpoints.tandem.api_health import HybridHealth, Status
from proxy.endpoints.tandem.health import ServerHealth

ILL = Health(ok=False, detail="It failed several times.")


@pytest.mark.parametrize(
    ("mlx", "ollama", "status"),
    [(WELL, WELL, "ok"), (WELL, ILL, "degraded"), (ILL, ILL, "unavailable")],
)
async def test_status_combines_the_backends(mlx: Health, ollama: Health, status: Status):
    backends = (
        ScriptedBackend(kind="mlx", health=mlx),
        ScriptedBackend(kind="ollama", health=ollama),
    )
    async with http_client(*backends) as client:
        body = (await client.get("/api/health")).json()
    assert body["status"] == status
    assert body["backends"]["ollama"]["detail"] == ollama.detail
    assert set(body["memory"]) == {"budget", "used", "models"}
    assert body["fallbacks"] == {}


async def test_status_is_draining_during_shutdown():
    backend = ScriptedBackend(kind="mlx")
    app = create_app(Config(), {"mlx": backend})
    transport = httpx2.ASGITransport(app=app)  # type: ignore[arg-type]
    async with app.lifespan(), httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        app.state.parts.grace.begin()
        assert (await client.get("/api/health")).json()["status"] == "draining"


async def test_engine_that_is_off_is_listed_and_does_not_degrade():
    async with http_client(ScriptedBackend(kind="ollama")) as client:
        body = (await client.get("/api/health")).json()
    assert body["status"] == "ok"
    assert body["backends"]["mlx"]["ok"] is False
    assert "switched off" in body["backends"]["mlx"]["detail"]


def test_fields_include_those_of_health():
    assert HybridHealth.__struct_fields__ == ServerHealth.__struct_fields__
