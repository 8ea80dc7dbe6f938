"""The baseline of `tandem bench engine`: mlx-lm itself, bare and as its own server.

Separate programs, so that each candidate of the benchmark has a process of its own:

    python -m adapters.mlx.baseline prepare NAME FOLDER [--tiny]
    python -m adapters.mlx.baseline bare FOLDER
    python -m adapters.mlx.baseline server FOLDER --port PORT

`prepare` writes the weights that all of them run, `server` is mlx_lm.server, and `bare` takes jobs
on stdin and answers on stdout. A job is a line `{"prompts": [text, …], "max_tokens": n}`: all
prompts are inserted at once. Its result is a line `{"times": [[seconds, …], …], "cpu": seconds}`: a
list for each prompt, with the moment of each token from the job's beginning.
"""

# pyright: basic
import argparse
import asyncio
import json
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from adapters.mlx import blas

_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""A model so small that the cost of everything around it shows."""


def main() -> None:
    arguments = _parser().parse_args()
    blas.preload()
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adapters.mlx.baseline")
    commands = parser.add_subparsers(required=True)
    for name, run in (("prepare", _prepare), ("bare", _bare), ("server", _server)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        if name == "prepare":
            command.add_argument("name")
            command.add_argument("--tiny", action="store_true")
        command.add_argument("folder", type=Path)
        if name == "server":
            command.add_argument("--port", required=True)
    return parser


def _prepare(arguments: argparse.Namespace) -> None:
    """Write FOLDER: the model as Tandem would load it here, or one with random weights.

    On a CPU Tandem unpacks quantised weights; mlx-lm would not, and be slower by that alone.
    """
    import mlx.core as mx
    from mlx_lm import utils

    source, folder = asyncio.run(_locate(arguments.name)).expanduser(), arguments.folder
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copy(file, folder / file.name)
    if arguments.tiny:
        _write_small(folder)
        return
    if mx.default_device() != mx.Device(mx.cpu):
        for file in (*source.glob("*.safetensors"), *source.glob("*.index.json")):
            (folder / file.name).symlink_to(file.resolve())
        return
    model, config = utils.load_model(source, lazy=True)
    model.set_dtype(mx.float32)
    model = utils.dequantize_model(model)
    utils.save_model(folder, model)
    _write_config(folder, config)


async def _locate(name: str) -> Path:
    """Return the folder of a model of `tandem models`, or of a path."""
    from adapters.config import MLXConfig
    from adapters.mlx.models import bundled
    from adapters.mlx.models.catalog import find_models

    config = MLXConfig(embedded="always")
    model = find_models(config).get(name)
    if model is None:
        return Path(name)
    return model.path or await bundled.ensure_available(name, config.cache_folder)


def _write_small(folder: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    vocabulary = json.loads((folder / "config.json").read_bytes())["vocab_size"]
    config = {
        **_SMALL,
        "model_type": "llama",
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    }
    mx.random.seed(7)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    parameters: Any = tree_flatten(model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(parameters))
    _write_config(folder, config)


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    plain = {key: value for key, value in config.items() if not key.startswith("quantization")}
    (folder / "config.json").write_text(json.dumps(plain))


def _bare(arguments: argparse.Namespace) -> None:
    from mlx_lm import load
    from mlx_lm.generate import BatchGenerator

    model, tokenizer = load(str(arguments.folder))[:2]
    ends = [[token] for token in tokenizer.eos_token_ids]
    for line in sys.stdin:
        job = json.loads(line)
        prompts = [_render(tokenizer, text) for text in job["prompts"]]
        generator = BatchGenerator(model, stop_tokens=ends, max_tokens=job["max_tokens"])
        result = _run(generator, prompts)
        generator.close()
        print(json.dumps(result), flush=True)


def _render(tokenizer: Any, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))


def _run(generator: Any, prompts: list[list[int]]) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    places = {uid: place for place, uid in enumerate(generator.insert(prompts))}
    times: list[list[float]] = [[] for _ in prompts]
    while places:
        _, responses = generator.next()
        now = time.perf_counter() - began
        for response in responses:
            times[places[response.uid]].append(now)
            if response.finish_reason is not None:
                del places[response.uid]
    return {"times": times, "cpu": time.process_time() - cpu}


def _server(arguments: argparse.Namespace) -> None:
    folder, port = str(arguments.folder), arguments.port
    sys.argv = ["mlx_lm.server", "--model", folder, "--port", port, "--log-level", "ERROR"]
    runpy.run_module("mlx_lm.server", run_name="__main__")


if __name__ == "__main__":
    main()
