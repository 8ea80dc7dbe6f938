"""Every architecture that crosses, on both engines: the logprobs of a tiny model agree."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fakes.tiny_decoders import HEAD_DIMS, decoder_gguf
from gguf import GGMLQuantizationType as GGML
from servers.ollama_server import OllamaProcess
from tokenizers import Tokenizer

from adapters.mlx.gguf import convert
from adapters.mlx.to_gguf import write_gguf

pytestmark = [pytest.mark.ollama, pytest.mark.long, pytest.mark.timeout(600)]

PROMPTS = ("abc hello, this is a text", "12 of them; zebras? no", "x", "the", "zz top 99", "Q")
LIMITS = {"gpt-oss": 0.15}
"""llama.cpp rounds the activations before a matrix in MXFP4 to 8 bits."""
LIMIT = 0.03
"""It keeps keys and values in float16. Logprobs of random models are about -3, spread by 2."""


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaProcess]:
    process = OllamaProcess(tmp_path_factory.mktemp("store"))
    process.start()
    yield process
    process.stop()


@pytest.mark.parametrize("architecture", sorted(HEAD_DIMS))
def test_exported_model_has_the_same_logprobs_on_ollama(
    tmp_path: Path, server: OllamaProcess, architecture: str
) -> None:
    convert(decoder_gguf(tmp_path, architecture, GGML.F32), tmp_path / "one", quiet)
    write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    name = f"{architecture.replace('-', '')}:tiny"
    server.create(name, f"FROM {tmp_path / 'back.gguf'}\nTEMPLATE {{{{ .Prompt }}}}\n")

    differences = [
        abs(mine - theirs)
        for prompt in PROMPTS
        for mine, theirs in compared(tmp_path / "one", server.host, name, prompt)
    ]
    assert len(differences) > 10
    assert max(differences) < LIMITS.get(architecture, LIMIT)


def compared(folder: Path, host: str, name: str, prompt: str) -> Iterator[tuple[float, float]]:
    """Pairs of logprobs of MLX and of Ollama, for the likeliest tokens after `prompt`."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    by_text: dict[str, list[int]] = {}
    for token in range(tokenizer.get_vocab_size()):
        by_text.setdefault(tokenizer.decode([token], skip_special_tokens=False), []).append(token)
    model: Any = load_model(folder)[0]
    logits = model(mx.array([tokenizer.encode(prompt).ids]))[0, -1].astype(mx.float32)
    logprobs = np.array(logits - mx.logsumexp(logits))
    body = {
        "model": name,
        "prompt": prompt,
        "raw": True,
        "stream": False,
        "logprobs": True,
        "top_logprobs": 20,
        "options": {"num_predict": 1, "temperature": 0, "repeat_penalty": 1.0},
    }
    answer = httpx.post(f"{host}/api/generate", json=body, timeout=120).raise_for_status().json()
    for entry in answer.get("logprobs") or []:  # Without, where it draws an end.
        for likely in entry["top_logprobs"]:
            tokens = by_text.get(likely["token"], [])
            if len(tokens) == 1:  # Bytes of a character may be shown alike.
                yield float(logprobs[tokens[0]]), likely["logprob"]
