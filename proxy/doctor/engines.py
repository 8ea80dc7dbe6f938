"""Checks of the engines: Ollama's servers and settings, and the models of each backend."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from adapters.config import MLXConfig, OllamaConfig
from adapters.diagnosis.ollama import OllamaState, find_state
from proxy.config import Config
from proxy.doctor.report import Check
from proxy.models.registry import BackendModels, Registry

_LISTING_SECONDS = 5.0
_OLDEST = (0, 6, 4)
"""Older versions lack parts of the API that Tandem uses."""
_SHORT_CONTEXT = 4096
_OFF = ("0", "false", "f")
_SETTINGS = {
    "OLLAMA_NUM_PARALLEL": "parallel requests",
    "OLLAMA_CONTEXT_LENGTH": "context length",
    "OLLAMA_FLASH_ATTENTION": "flash attention",
}


async def check_ollama(config: Config) -> dict[str, Check]:
    """Each server of each backend of Ollama."""
    checks: dict[str, Check] = {}
    for name, backend in config.enabled().items():
        if isinstance(backend, OllamaConfig):
            for number, address in enumerate(backend.addresses):
                id_ = f"ollama.{name}" + (f".{number + 1}" if number else "")
                state = await find_state(address, backend.secret)
                checks[f"{id_}.server"] = _server(name, backend, state)
                if state.problem is None:
                    checks[f"{id_}.settings"] = _settings(name, state)
    return checks


def _server(name: str, backend: OllamaConfig, state: OllamaState) -> Check:
    if state.problem is not None:
        return Check(
            category="ollama",
            status="fail" if state.trouble in ("refused", "other") else "warning",
            summary=f"{name} is not reachable: {state.problem}",
            remediation=_mend(name, backend, state),
        )
    details = {"version": state.version, "address": state.address, "loaded": state.loaded}
    digits = re.match(r"(\d+)\.(\d+)\.(\d+)", state.version or "")
    number = tuple(map(int, digits.groups())) if digits else (0, 0, 0)
    # 0.0.0 is built from source, and not old.
    if (0, 0, 0) != number < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return Check(
            category="ollama",
            status="fail",
            summary=f"{name} is Ollama {state.version}, older than {oldest}",
            details=details,
            remediation="Update Ollama.",
        )
    models = "1 model" if state.models == 1 else f"{state.models} models"
    text = f"{name} is Ollama {state.version} at {state.address} with {models}"
    return Check(category="ollama", status="ok", summary=text, details=details)


def _mend(name: str, backend: OllamaConfig, state: OllamaState) -> str:
    """Say what to do where no Ollama responds: by the problem, and where the address is from."""
    address = "`host` in config.yaml"
    if backend.host is None and not backend.hosts and os.environ.get("OLLAMA_HOST"):
        address = "$OLLAMA_HOST"
    is_here = shutil.which("ollama") is not None
    step = {
        "away": "Start it with `ollama serve`" if is_here else "Install Ollama and start it",
        "silent": "Restart that program",
        "refused": f"Set `backends.{name}.api_key` to a key of that server",
    }.get(state.trouble or "", "End that program and start Ollama")
    return f"{step}, correct {address}, or switch it off with `backends: {{{name}: null}}`."


def _settings(name: str, state: OllamaState) -> Check:
    """Settings that slow Ollama down; its API does not report them."""
    if state.settings is None:
        return Check(
            category="ollama",
            status="unknown",
            summary=f"{name}: parallel requests, context length and flash attention are unknown",
            remediation="Ollama's API does not report them; look at the environment of its "
            "process on its machine.",
        )
    wrong = _wrong(state.settings)
    details = {"environment": dict(state.settings)}
    if wrong:
        return Check(
            category="ollama",
            status="warning",
            summary=f"{name}: " + "; ".join(what for what, _ in wrong),
            details=details,
            remediation=" ".join(advice for _, advice in wrong) + " Then start Ollama again.",
        )
    shown = ", ".join(
        f"{what}: {state.settings.get(variable, 'its default')}"
        for variable, what in _SETTINGS.items()
    )
    text = f"{name}: no setting slows it down ({shown})"
    return Check(category="ollama", status="ok", summary=text, details=details)


def _wrong(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name the settings that slow Ollama down, each with the next step."""
    found: list[tuple[str, str]] = []
    if values.get("OLLAMA_NUM_PARALLEL") == "1":
        found.append(
            ("it answers one request at a time", "Set OLLAMA_NUM_PARALLEL=4 for several clients.")
        )
    length = values.get("OLLAMA_CONTEXT_LENGTH", "")
    if length.isdecimal() and 0 < int(length) < _SHORT_CONTEXT:
        found.append(
            (
                f"the context of other clients is {length} tokens, so that models are loaded again",
                f"Remove OLLAMA_CONTEXT_LENGTH, or set {_SHORT_CONTEXT} or more.",
            )
        )
    if values.get("OLLAMA_FLASH_ATTENTION", "").lower() in _OFF:
        found.append(("flash attention is off", "Remove OLLAMA_FLASH_ATTENTION."))
    return found


async def check_models(config: Config) -> dict[str, Check]:
    """Check the models that each backend lists, those that it cannot use, and the aliases."""
    registry = Registry(config.models, config.server.refresh)
    async with registry.open(config.backend_configs()):
        await registry.refresh(_LISTING_SECONDS)
        checks = {
            f"models.{name}": _models(name, there) for name, there in registry.backends.items()
        }
        checks |= _folders(config)
        if (budget := _budget(config, registry)) is not None:
            checks["models.budget"] = budget
        if config.models:
            checks["models.aliases"] = _aliases(config, registry)
        if not registry.entries():
            checks["models.any"] = Check(
                category="models",
                status="fail",
                summary="There is no model that can answer",
                remediation="`tandem pull llama3.2:1b` gets one for Ollama, `tandem pull "
                "mlx-community/Llama-3.2-1B-Instruct-4bit` one for MLX.",
            )
        return checks


def _budget(config: Config, registry: Registry) -> Check | None:
    """Report a budget that no model fits in, such as GiB in a setting of bytes."""
    listed = (model for there in registry.backends.values() for model in there.models.values())
    least = min((model.size_bytes for model in listed if model.size_bytes), default=None)
    budget = config.server.memory_bytes
    if budget is None or least is None or least <= budget:
        return None
    return Check(
        category="models",
        status="fail",
        summary=f"No model fits into the budget of {budget:,} bytes: the smallest has {least:,}",
        remediation="Set `server.memory_bytes` to more, in bytes, or remove it.",
    )


def _models(name: str, there: BackendModels) -> Check:
    if not there.reached:
        text = f"{name}: its models cannot be listed"
        return Check(category="models", status="unknown", summary=text)
    count, unusable = len(there.models), there.unusable()
    if unusable:
        reasons = "; ".join(f"'{model}': {why}" for model, why in sorted(unusable.items()))
        return Check(
            category="models",
            status="warning",
            summary=f"{name}: {count} models, and {len(unusable)} that cannot be used: {reasons}",
            details={"unusable": unusable},
            remediation="Download or convert them again, or remove their folders.",
        )
    summary = f"{name}: {count} model{'' if count == 1 else 's'}"
    return Check(
        category="models", status="ok", summary=summary, details={"models": sorted(there.models)}
    )


def _folders(config: Config) -> dict[str, Check]:
    mlx = config.of_kind(MLXConfig)
    folders = mlx.folders if mlx is not None else ()
    missing = [folder for folder in folders if not os.path.isdir(Path(folder).expanduser())]
    if not missing:
        return {}
    check = Check(
        category="models",
        status="warning",
        summary=f"These folders of models do not exist: {', '.join(missing)}",
        remediation="Correct `folders` of the mlx backend in config.yaml.",
    )
    return {"models.folders": check}


def _aliases(config: Config, registry: Registry) -> Check:
    lost = [
        (f"'{alias}' names '{model}', which {backend} does not have", there.withheld(model))
        for alias, settings in config.models.items()
        for backend, model in settings.names.items()
        if (there := registry.backends.get(backend)) is not None
        and there.reached
        and there.full(model) not in there.models
        and not model.startswith(("/", "~", "."))
    ]
    if lost:
        return Check(
            category="models",
            status="warning",
            summary="; ".join(what for what, _ in lost),
            remediation=" ".join(dict.fromkeys(_to_step(withheld) for _, withheld in lost)),
        )
    count = len(config.models)
    text = f"All {count} aliases lead to a model" if count > 1 else "The alias leads to a model"
    return Check(category="models", status="ok", summary=text)


def _to_step(withheld: str | None) -> str:
    """Return what to do about a missing model; `withheld`: the setting that hides it."""
    if withheld is None:
        return "Pull the model, or correct `models` in config.yaml."
    return f"{withheld[0].upper()}{withheld[1:]}."
