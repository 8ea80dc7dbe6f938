"""Speed of speech: what the model does itself, and what is done to its sound."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import config_for

from adapters.audio import SpeechRequest, SpeechStarted
from adapters.errors import InvalidRequestError
from adapters.mlx.audio.kinds import AudioKind
from adapters.mlx.audio.speech import SpeechModel
from adapters.mlx.audio.voices import Speaker
from adapters.mlx.engine.engine import Engine


class Speaking:
    """Speaks at the speed that it is given."""

    speed = 0.0

    def generate(self, text: str, speed: float = 1.0) -> Any:
        self.speed = speed
        audio = mx.zeros(round(2400 / speed))
        yield SimpleNamespace(audio=audio, sample_rate=24_000, token_count=len(text))


class Started:
    """A sink that keeps the first event."""

    event: SpeechStarted | None = None

    def write(self, event: Any, /) -> bool:
        self.event = self.event or event
        return False

    async def drain(self) -> None:
        """Nothing waits."""


@pytest.mark.parametrize(
    ("family", "speed", "own", "rest"),
    [
        ("kokoro", 0.25, 0.25, 1.0),
        ("kokoro", 2.0, 2.0, 1.0),
        ("kokoro", 4.0, 2.0, 2.0),
        ("dia", 4.0, 1.0, 4.0),
    ],
)
async def test_speed_is_shared_by_the_model_and_its_sound(
    tmp_path: Path, family: str, speed: float, own: float, rest: float
):
    engine, model, sink = Engine(config_for(tmp_path)), Speaking(), Started()
    speech = SpeechModel(engine, "m", AudioKind("speech", family), model, 0)
    request = SpeechRequest(model="m", text="Hello.", speed=speed)
    await speech.speak(request, Speaker(), sink, cold=False)
    engine.close()
    assert model.speed == own
    assert sink.event == SpeechStarted(rate=24_000, speed=rest)


class Silent:
    """Has no sounds for any text, as Kokoro for a dash."""

    def generate(self, text: str) -> Any:
        yield from ()


async def test_text_without_sounds_is_the_mistake_of_the_request(tmp_path: Path):
    engine = Engine(config_for(tmp_path))
    speech = SpeechModel(engine, "m", AudioKind("speech", "kokoro"), Silent(), 0)
    request = SpeechRequest(model="m", text="-")
    with pytest.raises(InvalidRequestError, match="no sound of this text") as caught:
        await speech.speak(request, Speaker(), Started(), cold=False)
    engine.close()
    assert caught.value.param == "input"
