"""A real Ollama that is stopped, continued and killed within answers."""

import json
import signal
from pathlib import Path

import pytest
from fakes.waiting import until
from servers.ollama_server import PLAIN, OllamaProcess
from servers.server_process import serving, write

from tools.faults.raw import CHAT, chunks, connected, encode, is_told, read_head, send

pytestmark = [pytest.mark.long, pytest.mark.ollama, pytest.mark.timeout(600)]


def asking(stream: bool, tokens: int = 400) -> bytes:
    message = {"role": "user", "content": "Tell a long story."}
    body = {"model": PLAIN, "messages": [message], "stream": stream, "max_tokens": tokens}
    return encode("POST", CHAT, json.dumps(body).encode())


def config(folder: Path, host: str) -> Path:
    return write(
        folder,
        f"server: {{store: false}}\nbackends:\n  mlx: null\n"
        f"  ollama: {{host: {host}, token_timeout: 5, first_token_timeout: 20}}\n",
    )


async def test_ollama_that_stops_within_an_answer_is_told_and_used_again(
    ollama_process: OllamaProcess, tmp_path: Path
):
    with serving(config(tmp_path, ollama_process.host)) as running:
        assert (await send(running.port, asking(False, 3), 300)).status == 200
        text, ended = b"", False
        async with connected(running.port) as (reader, writer):
            writer.write(asking(True))
            await read_head(reader)
            async for piece in chunks(reader):
                text += piece
                if text.count(b"data:") >= 5 and not ended:  # Several may come in one piece.
                    ollama_process.pause()
                    ended = True
        assert is_told(text)
        assert b"backend_timeout" in text
        ollama_process.signal(signal.SIGCONT)
        await _answers_again(running.port)


async def test_ollama_that_is_killed_within_an_answer_is_told_and_used_again(
    ollama_process: OllamaProcess, tmp_path: Path
):
    with serving(config(tmp_path, ollama_process.host)) as running:
        assert (await send(running.port, asking(False, 3), 300)).status == 200
        text, ended = b"", False
        async with connected(running.port) as (reader, writer):
            writer.write(asking(True))
            await read_head(reader)
            async for piece in chunks(reader):
                text += piece
                if text.count(b"data:") >= 5 and not ended:  # Several may come in one piece.
                    ollama_process.kill()
                    ended = True
        assert is_told(text)
        assert (await send(running.port, asking(False, 3))).status == 503
        ollama_process.restart()
        await _answers_again(running.port)


async def _answers_again(port: int) -> None:
    async def is_answered() -> bool:
        return (await send(port, asking(False, 3), 120)).status == 200

    await until(is_answered, 120)
