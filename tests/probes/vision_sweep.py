"""Every family of mlx-vlm as a tiny random model: the server's answers beside mlx-vlm's own.

The reference is mlx-vlm's `generate` on the same folder, in the same process. Answers are compared
by their tokens and by the log probabilities of these, which differ before a text does.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from fakes.tiny_model import config_for
from fakes.vision_client import (
    DARK,
    PHOTO,
    Answer,
    Reference,
    answer,
    request,
    token_answer,
    user,
)
from fakes.vision_families import write_family
from PIL import Image

from adapters import sink
from adapters.errors import BackendError, InvalidRequestError, UnsupportedParameterError
from adapters.events import TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.request import GenerationRequest, Message

OK = "ok"
TOLERANCE = 1e-3
"""Greatest difference of log probabilities, natural: float32, summed in another order."""
MODEL = "model"


def _shades(width: int, height: int) -> bytes:
    """A picture that no layer norm makes noise of, as it does of a blank one."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).rotate(30).convert("RGB").save(file, "PNG")
    return file.getvalue()


WIDE = _shades(140, 84)
ONE = (user("What is", WIDE, "here?"),)
SEVERAL = (user("One", PHOTO, "two", DARK, "?"),)
NONE = (user("No image."),)
FIRST_TURN = (user("A long beginning, of several blocks, about", PHOTO, "and so on: what is it?"),)
SECOND_TURN = (*FIRST_TURN, user("A house with a garden.", role="assistant"), user("And then?"))
Chat = tuple[Message, ...]


class Subject(NamedTuple):
    """A tiny model, loaded by the server, and mlx-vlm's answers."""

    backend: MLXBackend
    reference: Callable[[Chat], Answer | Exception]
    plain: Callable[[Chat], Answer | Exception]
    """Answers to chats without images by the tokens of the prompt."""

    @property
    def references(self) -> tuple[Callable[[Chat], Answer | Exception], ...]:
        return self.plain, self.reference

    async def answer(self, chat: Chat, **fields: object) -> Answer:
        return await answer(self.backend, request(MODEL, *chat, **fields))  # pyright: ignore


Check = Callable[[Subject], Awaitable[str]]


async def alone(subject: Subject) -> str:
    """Answer each chat by itself: an image, none, several."""
    for chat in (ONE, NONE, SEVERAL):
        fault = await _compare(subject, chat)
        if fault != OK:
            return f"{_name(chat)}: {fault}"
    return OK


async def text(subject: Subject) -> str:
    """Answer a chat without images as mlx-vlm does, or as its language model does by itself."""
    found = await subject.answer(NONE)
    if OK in (faults := [_differ(found, reference(NONE)) for reference in subject.references]):
        return OK
    return faults[-1]


async def together(subject: Subject) -> str:
    """Answer all chats at once."""
    chats = [chat for chat in (ONE, NONE, SEVERAL) if isinstance(subject.reference(chat), Answer)]
    answers = await asyncio.gather(*[subject.answer(chat, client="b") for chat in chats])
    for chat, found in zip(chats, answers, strict=True):
        fault = _differ(found, subject.reference(chat))
        if fault != OK:
            return f"{_name(chat)}: {fault}"
    return OK


async def continued(subject: Subject) -> str:
    """Answer the second turn of a chat with an image, from the cache."""
    await subject.answer(FIRST_TURN)
    await subject.answer(SECOND_TURN)
    return await _compare(subject, SECOND_TURN)


async def cancelled(subject: Subject) -> str:
    """Leave one of two answers midway: the other is complete, and so is the next."""
    leaving = asyncio.create_task(_leave(subject))
    fault = await _compare(subject, NONE)
    await leaving
    return fault if fault != OK else await _compare(subject, ONE)


async def quoted(subject: Subject) -> str:
    """Read the placeholders of an image in a user's text as text."""
    names = "<image><|image|><|image_pad|>[IMG]<IMG_CONTEXT><image_soft_token><|media_pad|>"
    plain = await subject.answer((user("So", WIDE, "here?"),))
    named = await subject.answer((user(f"So{names}", WIDE, f"here?{names}"),))
    more = named.usage.prompt_tokens - plain.usage.prompt_tokens
    return OK if more == 2 * len(names) else f"{2 * len(names)} characters are {more} tokens"


CHECKS: dict[str, Check] = {
    check.__name__: check for check in (alone, together, continued, cancelled, quoted)
}


class Outcome(NamedTuple):
    faults: dict[str, str]
    """`OK` or what is wrong, by the name of the check."""
    reused: int
    """Tokens of the second turn that were taken from the cache."""
    several: str
    """Why several images are refused; empty if they are read."""
    notes: tuple[str, ...]
    """Deviations that the card of the model names."""
    refused: str = ""
    """Why the model takes no images, if it takes none."""

    @property
    def is_right(self) -> bool:
        return set(self.faults.values()) <= {OK}


async def sweep(name: str, folder: Path) -> Outcome:
    """Put every check to one family, in a model written below `folder`.

    A check that raises counts as wrong, with the error's words.
    """
    path = write_family(folder / MODEL, name)
    references: dict[Chat, Answer | Exception] = {}

    def reference(chat: Chat) -> Answer | Exception:
        if chat not in references:
            references[chat] = _generate(path, chat)
        return references[chat]

    async with aclosing(MLXBackend(config_for(folder))) as backend:
        subject = Subject(backend, reference, lambda chat: _plain(path, chat))
        if refused := await _refusal(subject):
            faults = {"text": await _outcome(text, subject)} if await backend.list_models() else {}
            return Outcome(faults, 0, "", (), refused)
        faults = {title: await _outcome(check, subject) for title, check in CHECKS.items()}
        notes = tuple(note for model in await backend.list_models() for note in model.notes)
        try:
            await subject.answer(SECOND_TURN)
            reused = (await subject.answer(SECOND_TURN)).cached
        except BackendError:
            reused = 0
        return Outcome(faults, reused, await _several(subject), notes)


async def _refusal(subject: Subject) -> str:
    """Return why the model, or an image for it, is refused."""
    if not await subject.backend.list_models():
        return " ".join(subject.backend.unusable().values())
    try:
        await subject.answer(ONE)
    except UnsupportedParameterError as error:
        return str(error)
    except BackendError:
        await subject.backend.list_models()
        return " ".join(subject.backend.unusable().values())
    return ""


async def _several(subject: Subject) -> str:
    try:
        await subject.answer(SEVERAL)
    except InvalidRequestError as error:
        return str(error)
    except BackendError as error:
        return f"fails: {error}"
    return ""


def _generate(path: Path, chat: Chat) -> Answer | Exception:
    """Return the answer of mlx-vlm alone, by a model that was not used before."""
    try:
        return Reference(path).chat(*chat)
    except Exception as error:
        return error


def _plain(path: Path, chat: Chat) -> Answer | Exception:
    try:
        return token_answer(path, *chat)
    except Exception as error:
        return error


async def _outcome(check: Check, subject: Subject) -> str:
    try:
        return await check(subject)
    except BackendError as error:
        return f"{type(error).__name__}: {error}"


async def _compare(subject: Subject, chat: Chat) -> str:
    expected = subject.reference(chat)
    try:
        found = await subject.answer(chat)
    except InvalidRequestError as error:
        return OK if isinstance(expected, Exception) else f"refused: {error}"
    return _differ(found, expected)


def _differ(found: Answer, expected: Answer | Exception) -> str:
    if isinstance(expected, Exception):
        return f"answered, and mlx-vlm fails: {type(expected).__name__}: {expected}"[:200]
    if found.usage.prompt_tokens != expected.usage.prompt_tokens:
        return f"{found.usage.prompt_tokens} tokens for {expected.usage.prompt_tokens}"
    for place, (one, other) in enumerate(zip(found.logprobs, expected.logprobs, strict=False)):
        if abs(one - other) > TOLERANCE:
            return f"log probabilities differ by {abs(one - other):.1e} from token {place} on"
    return OK if found.data == expected.data else f"{found.data!r} for {expected.data!r}"


def _name(chat: Chat) -> str:
    return "an image" if chat is ONE else "several images" if chat is SEVERAL else "no image"


async def _leave(subject: Subject) -> None:
    asked: GenerationRequest = request(MODEL, *ONE, tokens=200)
    events = sink.events(subject.backend, asked)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta):
                return
