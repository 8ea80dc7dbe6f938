"""Load a model of mlx-audio into memory. Runs on the engine's thread."""

# pyright: basic
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import mlx.core as mx

from adapters.errors import GenerationError
from adapters.mlx.audio.kinds import AudioKind, missing_packages
from adapters.mlx.device import unpacks
from adapters.mlx.jobs import Pieces, beside
from adapters.mlx.models.catalog import huggingface_cache
from adapters.mlx.models.load import explained, read_weights
from adapters.mlx.models.load_progress import Loading

_CATEGORIES = {"speech": "tts", "transcription": "stt"}


def load_audio(
    path: Path, kind: AudioKind, dequantize: Literal["auto", "always", "never"], loading: Loading
) -> Pieces[Any]:
    """Load the model in `path`; on a CPU its numbers become float32, see `device.unpacks`.

    Raises:
        GenerationError: the files are not a model that mlx-audio can run; says why.
        BackendUnavailableError: the load was cancelled.
    """
    if (missing := missing_packages()) is not None:
        raise GenerationError(f"'{loading.name}' cannot be loaded: {missing}.", lasting=True)
    with explained(path, loading.name):
        # Importing takes seconds, and no array is used.
        package = yield from beside(partial(_import, kind))
        loading.check()
        model = _build(package, path, kind)
        yield
        is_float32 = unpacks(path_parameters(path), dequantize)
        if is_float32:
            _to_float32(model, kind)
        yield from read_weights([model], [], loading)
        yield from beside(partial(_read_tokenizer, package, model, path))
        if kind.family == "kokoro":
            from adapters.mlx.audio.convolutions import divide_convolutions
            from adapters.mlx.audio.kokoro import add_pipelines

            add_pipelines(model, path)
            divide_convolutions(model)
        if kind.family == "llama":
            from adapters.mlx.audio.orpheus import keep_codes_inside

            keep_codes_inside()
        if kind.family == "whisper":
            from adapters.mlx.audio.encoder_attention import divide_attention

            divide_attention(model)
        from adapters.mlx.audio.slices import add_checkpoints

        add_checkpoints(model)
        return model


def path_parameters(path: Path) -> int:
    """Estimate the parameters of the files in `path`, by their size as 16-bit numbers."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) // 2


def _import(kind: AudioKind) -> Any:
    category = _CATEGORIES[kind.capability]
    if kind.family == "llama":
        # Orpheus reads its codec when it is imported.
        import_module("mlx_audio.codec")
        _stay_offline()
    package = import_module(f"mlx_audio.{category}.models.{kind.family}")
    import_module("mlx_audio.utils")
    if kind.capability == "transcription":
        import_module("transformers")
    if kind.family == "whisper":
        from adapters.mlx.audio.word_times import replace_loops

        replace_loops(import_module(f"{package.__name__}.timing"))
    _stay_offline()
    _be_quiet()
    return package


def _stay_offline() -> None:
    """Let mlx-audio look for parts of a model, such as Dia's codec and the tokenizer of CSM, in the
    local cache only.

    Its models download what they miss; here only `tandem pull` and `auto_pull` use the network.
    """
    import huggingface_hub

    def local(find: Callable[..., Any], repo_id: str, *args: Any, **options: Any) -> Any:
        if Path(repo_id).is_dir():
            return find(repo_id, *args, **options)
        try:
            return find(
                repo_id,
                *args,
                **options | {"local_files_only": True, "cache_dir": huggingface_cache()},
            )
        except Exception as error:
            raise GenerationError(
                f"The model needs the repository '{repo_id}', which is not on this machine; "
                f"`hf download {repo_id}` fetches it.",
                lasting=True,
            ) from error

    for module in _modules_of_mlx_audio():
        for name in ("snapshot_download", "hf_hub_download"):
            find = getattr(huggingface_hub, name)
            if getattr(module, name, None) is find:
                setattr(module, name, partial(local, find))
        tokenizers: Any = vars(module).get("AutoTokenizer")
        if isinstance(tokenizers, type):
            module.AutoTokenizer = SimpleNamespace(
                from_pretrained=partial(local, tokenizers.from_pretrained)
            )


def _be_quiet() -> None:
    """Keep the progress bars and messages of mlx-audio's models out of the server's output."""
    import tqdm

    for module in _modules_of_mlx_audio():
        module.print = lambda *_args, **_options: None
        if getattr(module, "trange", None) is tqdm.trange:
            module.trange = partial(tqdm.trange, disable=True)


def _modules_of_mlx_audio() -> list[Any]:
    return [module for name, module in sys.modules.items() if name.startswith("mlx_audio.")]


def _build(package: Any, path: Path, kind: AudioKind) -> Any:
    """Create the model with lazy weights, as `mlx_audio.utils.base_load_model` does, without what
    it evaluates and without its tokenizer."""
    from mlx_audio import utils

    config = utils.load_config(path) | {"model_path": str(path)}
    if (path / "tokenizer.json").is_file():
        # Orpheus and OuteTTS would take that of the repository that they were made of.
        config["tokenizer_name"] = str(path)
    has_config = hasattr(package, "ModelConfig")
    model = package.Model(package.ModelConfig.from_dict(config) if has_config else config)
    weights = utils.load_weights(path)
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    utils.apply_quantization(model, config, weights, getattr(model, "model_quant_predicate", None))
    model.load_weights(list(weights.items()), strict=kind.capability == "speech")
    model.eval()
    return model


def _to_float32(model: Any, kind: AudioKind) -> None:
    # Not by `update`: Dia's `parameters` are those of a part, and constants are none.
    for module in model.modules():
        for name, value in module.items():
            if isinstance(value, mx.array) and value.dtype in (mx.float16, mx.bfloat16):
                module[name] = value.astype(mx.float32)
    if kind.family == "whisper":
        model.dtype = mx.float32


def _read_tokenizer(package: Any, model: Any, path: Path) -> None:
    if hook := getattr(package.Model, "post_load_hook", None):
        hook(model, path)
