"""Load a vision model with mlx-vlm. Runs on the engine's thread, except for the processor."""

# pyright: basic
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm import utils as mlx_vlm_utils
from mlx_vlm.generate.common import _chunked_prefill_enabled
from mlx_vlm.prompt_utils import MODEL_CONFIG, MessageFormat
from mlx_vlm.utils import (
    get_model_and_args,
    load_image_processor,
    load_model,
    load_processor,
)
from msgspec.structs import replace

from adapters.chat_template.plan import Plan
from adapters.chat_template.probing import Probe, Refusal
from adapters.chat_template.rewriting import Writing, rewrite
from adapters.chat_template.template import ChatTemplate, answer_probe
from adapters.errors import GenerationError
from adapters.mlx.jobs import Pieces
from adapters.mlx.models.rope_settings import add_older_names, names_read
from adapters.mlx.models.transformers_settings import add_as_transformers_reads, with_output
from adapters.mlx.prompt.learned import Learned
from adapters.mlx.vision.encoder import LayerTape
from adapters.mlx.vision.model import SeeingModel
from adapters.mlx.vision.preprocess import Preprocessor
from adapters.mlx.vision.protocol import Embedded, ImagePrompt
from adapters.mlx.vision.support import OTHER_STATES
from adapters.request import ImagePart, Message, TextPart, ToolCall

_KEPT_STATES = frozenset({*OTHER_STATES, "encoder_outputs"})
"""Results of an encoder that later tokens need: the engine's rows keep caches only."""


_WITHOUT_TEXT = (MessageFormat.TEXT_ONLY, MessageFormat.PROMPT_ONLY)
"""Ways in which mlx-vlm writes messages without a word for their images."""

_KINDS = ("token_type_ids", "mm_token_type_ids")
"""Arrays with the kind of each token, text or image: the model masks by them up to its last key."""

_LEFT_BEHIND = {"_position_ids": "position_ids", "_rope_deltas": "rope_deltas"}
"""Attributes of a language model with the positions of its last prompt."""


def open_model(path: Path) -> SeeingModel:
    """Return the model with lazy weights. `sight_of` comes first: no code in the folder is run."""
    read = mlx_vlm_utils.load_config
    mlx_vlm_utils.load_config = lambda folder, **options: _readable(path, read(folder, **options))
    try:
        return SeeingModel(load_model(path, lazy=True).eval())
    finally:
        mlx_vlm_utils.load_config = read


def _readable(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return `config` with the settings of transformers 5 by the names that mlx-vlm reads.

    Raises:
        ValueError: its code has no name for a setting that counts.
    """
    module, _ = get_model_and_args(config)
    read = names_read(module)
    if "tie_word_embeddings" in read:
        config |= with_output(path, config)
    add_as_transformers_reads(config, read, read, module)
    add_older_names(config, read, read)
    return config


def read_processor(path: Path) -> Any:
    """Return the processor; takes a second. The model's module has to be imported already."""
    processor: Any = load_processor(path, add_detokenizer=False, trust_remote_code=False)
    if (own := load_image_processor(path)) is not None:
        processor.image_processor = own
    return processor


def with_placeholders(template: ChatTemplate, learned: Learned, placeholder: str) -> Learned:
    """Return what was learned with the way of images: parts of a message, or a text in it."""
    form = replace(learned.plan.form, image=None)
    with_image, without = (
        answer_probe(template, Probe((Message(role="user", content=content),), form=form))
        for content in ((TextPart("Quokka"), ImagePart("")), (TextPart("Quokka"),))
    )
    takes_parts = (
        isinstance(with_image, str)
        and "Quokka" in with_image
        and "'image'" not in with_image  # The list as Python writes it.
        and with_image != without
    )
    form = form if takes_parts else replace(form, image=placeholder)
    plan = replace(learned.plan, form=form)
    if not _shows_image_of_result(template, plan, learned.writing):
        moving = replace(plan, rewrites=plan.rewrites | {"result-images-as-user"})
        plan = moving if _shows_image_of_result(template, moving, learned.writing) else plan
    return replace(learned, plan=plan)


def _shows_image_of_result(template: ChatTemplate, plan: Plan, writing: Writing) -> bool:
    """Return whether the prompt is another one for an image in the result of a call."""
    call = ToolCall("call_0123456789abcdef01234567", "look", "{}")
    prompts: list[str | Refusal] = []
    for content in ((TextPart("Quokka"), ImagePart("")), (TextPart("Quokka"),)):
        chat = (
            Message(role="user", content=(TextPart("Look."),)),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content=content, tool_call_id=call.id),
        )
        messages = rewrite(chat, plan.rewrites, writing).messages
        prompts.append(answer_probe(template, Probe(messages, form=plan.form)))
    return isinstance(prompts[0], str) and prompts[0] != prompts[1]


class MLXVLMVision:
    """`Vision` of mlx-vlm: its processors, its encoders, its embeddings of prompts."""

    def __init__(self, model: SeeingModel, processor: Any) -> None:
        self.library = f"mlx-vlm {version('mlx-vlm')}"
        self._model = model
        self._tape = LayerTape(model.inner)
        self._preprocessor = Preprocessor(processor, _image_token(model.inner.config, processor))
        self.placeholder = _placeholder(model.inner.config, processor)
        """Text in place of an image, for templates without parts; empty if there is none."""
        self.end_tokens = _end_tokens(model.inner.config, processor)
        """Tokens that end an answer of mlx-vlm, beside those of the tokenizer."""

    def read(
        self, text: str, images: list[bytes], encode: Callable[[str], list[int]]
    ) -> ImagePrompt:
        return self._preprocessor.read(text, images, encode)

    def embed_text(self, ids: list[int]) -> dict[str, Any]:
        features, _ = _encode(self._model.inner, mx.array([ids]), None)
        return {name: value for name, value in features.to_dict().items() if value is not None}

    def embed(self, prompt: ImagePrompt, ids: list[int], cached: int) -> Pieces[Embedded]:
        inner, tokens = self._model.inner, mx.array([ids])
        inputs = {name: _to_array(value) for name, value in prompt.inputs.items()}
        kinds = {name: _padded(inputs.pop(name), len(ids)) for name in _KINDS if name in inputs}
        pixels, mask = inputs.pop("pixel_values", None), mx.ones_like(tokens)
        is_read = cached >= prompt.end
        features, left = yield from self._tape.run(
            lambda: _encode(inner, tokens, pixels, mask=mask, **inputs, **kinds),
            layers=not is_read,
        )
        states = {
            name: value
            for name, value in features.to_dict().items()
            if name != "inputs_embeds" and value is not None
        }
        shifts = states.get("rope_deltas", left.get("rope_deltas"))
        if kept := states.keys() & _KEPT_STATES:
            raise GenerationError(f"Images of this model need {min(kept)}, which is not supported.")
        shift = 0 if shifts is None else int(shifts.reshape(-1)[0].item())
        if is_read:
            return Embedded(lambda start, end: {}, shift)
        embeds = features.inputs_embeds
        if embeds.shape[1] != len(ids):
            raise GenerationError(
                f"{self.library} makes {embeds.shape[1]} embeddings of {len(ids)} tokens."
            )
        mx.eval(embeds, list(states.values()))
        whole = not _chunked_prefill_enabled(
            inner,
            input_ids=tokens,
            inputs_embeds=embeds,
            prefill_kwargs={**inputs, **kinds, **states},
        )

        def part(start: int, end: int) -> dict[str, Any]:
            # As mlx-vlm's `generate_step`: the model cuts what belongs to the whole prompt.
            about = {"n_to_process": end - start, "logits_to_keep": 1}
            until = {name: value[:, :end] for name, value in kinds.items()}
            mine = {"inputs_embeds": embeds[:, start:end]}
            if "position_ids" in left and "position_ids" not in states:
                mine["position_ids"] = left["position_ids"][..., start:end]
            return {**inputs, **until, **states, **about, **mine}

        return Embedded(part, shift, whole)


def _encode(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, mx.array]]:
    """Return the embeddings, and the positions that some encoders leave in the language model
    instead of returning them: the next prompt overwrites them there."""
    language_model = model.language_model
    for attribute in _LEFT_BEHIND:
        if hasattr(language_model, attribute):
            setattr(language_model, attribute, None)
    features = model.get_input_embeddings(*args, **kwargs)
    left = {name: getattr(language_model, at, None) for at, name in _LEFT_BEHIND.items()}
    return features, {name: value for name, value in left.items() if isinstance(value, mx.array)}


def _padded(kinds: mx.array, length: int) -> mx.array:
    """Return the kinds of all tokens: those that follow what the processor read are text."""
    return mx.pad(kinds, [(0, 0), (0, length - kinds.shape[1])])


def _to_array(value: Any) -> Any:
    return mx.array(value) if isinstance(value, np.ndarray) else value


def _placeholder(config: Any, processor: Any) -> str:
    """Return the text for an image: none for models such as Molmo, which read images before any
    text. Source: `MODEL_CONFIG` of mlx-vlm."""
    if MODEL_CONFIG.get(config.model_type) in _WITHOUT_TEXT:
        return ""
    return str(getattr(processor, "image_token", None) or "<image>")


def _end_tokens(config: Any, processor: Any) -> frozenset[int]:
    """Source: `StoppingCriteria` of mlx-vlm."""
    named = getattr(config, "eos_token_id", None)
    found = [named] if isinstance(named, int) else [*(named or ())]
    found += [*(getattr(processor, "additional_eos_token_ids", None) or ())]
    return frozenset(token for token in found if isinstance(token, int))


def _image_token(config: Any, processor: Any) -> int | None:
    """Return the id of the placeholder of an image."""
    for owner in (config, processor):
        for name in ("image_token_id", "image_token_index", "image_token_index_id"):
            if isinstance(token := getattr(owner, name, None), int):
                return token
    return None
