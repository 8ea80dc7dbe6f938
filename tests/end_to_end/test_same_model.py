"""One name, one GGUF, two engines: what they answer to the same questions, word by word.

Equal weights and equal ids do not make equal sums: llama.cpp rounds activations to 8 bits, MLX
does not. So the greedy answers of a small model part now and then, and how many do is printed.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import ollama
import pytest
from openai import OpenAI
from servers.server_process import Running, serving, write

from adapters.config import MLXConfig, OllamaConfig
from adapters.conversion.export_model import export_model
from adapters.conversion.import_model import find_source, import_model

pytestmark = [pytest.mark.ollama, pytest.mark.long, pytest.mark.timeout(600)]

QUESTIONS = (
    "What is the capital of France?",
    "What is the capital of Japan?",
    "Name three colours.",
    "How many legs has a spider?",
    "What is 2 + 2?",
    "Write a line about the sea.",
    "Who wrote Romeo and Juliet?",
    "What do bees make?",
    "Is the sun a star?",
    "Say hello in Spanish.",
    "What is the opposite of hot?",
    "Name a fruit that is yellow.",
    "What is water made of?",
    "Count from 1 to 5.",
    "What is the largest planet?",
    "Who painted the Mona Lisa?",
    "What is a prime number?",
    "Give me a word that rhymes with cat.",
    "What language is spoken in Brazil?",
    "How many days has a week?",
)
EXPORTED = "tandem-same-model-test:1"


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def server(ollama_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Tandem with `small`, a tag and its import; and what is made of the import for Ollama."""
    folder = tmp_path_factory.mktemp("same")
    there, mlx = OllamaConfig(host=ollama_host), MLXConfig(cache_folder=str(folder / "cache"))
    source = find_source("ollama:smollm2:135m", there)
    imported = import_model(source, folder / "mlx" / "imported-smollm2", there, quiet)
    assert imported.report.exact == len(imported.report.tensors)
    exported = export_model(imported.folder, EXPORTED, mlx, there, quiet)
    assert {tensor.relative_l2 for tensor in exported.written.tensors} == {0.0}
    config = write(
        folder,
        f"backends: {{ollama: {{host: '{ollama_host}'}}, mlx: {{folders: ['{folder / 'mlx'}'], "
        "huggingface_cache: false, embedded: never}}\n"
        "models: {small: {mlx: imported-smollm2, ollama: 'smollm2:135m'}}\n",
    )
    try:
        with serving(config) as running:
            yield running
    finally:
        with closing(ollama.Client(ollama_host)) as official:
            official.delete(EXPORTED)


def answers(server: Running, model: str) -> list[str]:
    client = OpenAI(
        base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x", max_retries=0, timeout=300
    )

    def ask(question: str) -> str:
        # With a system message both templates make the same prompt.
        answer = client.chat.completions.create(
            model=model,
            messages=[
                {"role": "system", "content": "Answer briefly."},
                {"role": "user", "content": question},
            ],
            temperature=0,
            max_tokens=24,
        )
        return answer.choices[0].message.content or ""

    with client, ThreadPoolExecutor(4) as threads:
        return list(threads.map(ask, QUESTIONS))


def alike(one: str, two: str) -> int:
    """Return the length of the beginning that both share, in characters."""
    shorter = min(len(one), len(two))
    return next((at for at in range(shorter) if one[at] != two[at]), shorter)


def compare(left: list[str], right: list[str]) -> int:
    """Return the number of equal answers, and print the point at which the others differ."""
    for question, one, two in zip(QUESTIONS, left, right, strict=True):
        if one != two:
            same = alike(one, two)
            print(f"{question!r}: alike for {same} characters, {one[same:]!r} | {two[same:]!r}")
    equal = sum(one == two for one, two in zip(left, right, strict=True))
    print(f"{equal} of {len(QUESTIONS)} answers are equal")
    return equal


def test_greedy_answers_of_both_engines_begin_alike(server: Running) -> None:
    on_mlx, on_ollama = answers(server, "mlx/small"), answers(server, "ollama/small")
    assert compare(on_mlx, on_ollama) >= 5
    # Those of another model would not begin alike.
    pairs = zip(on_mlx, on_ollama, strict=True)
    assert all(one == two or alike(one, two) >= 4 for one, two in pairs)


def test_greedy_answers_of_the_export_are_those_of_the_original(server: Running) -> None:
    original, exported = answers(server, "ollama/smollm2:135m"), answers(server, EXPORTED)
    assert compare(original, exported) >= 18
