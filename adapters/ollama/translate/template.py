"""What the template of a model is told in vain, and what is said in its place.

A chat is rendered by Ollama, from a template in Go, or by llama-server, from the weights' own in
Jinja; `/api/show` gives the one that counts.

Source: https://github.com/ollama/ollama/blob/main/server/prompt.go and `llm/llama_server.go`.
"""

import re

from msgspec import Struct
from msgspec.structs import replace

from adapters.ollama.translate.image_placement import is_mixed, placed
from adapters.ollama.wire import Show
from adapters.request import GenerationRequest, JSONObject, JSONSchema

_BUILT_IN = re.compile(r"^(RENDERER|PARSER) ", re.MULTILINE)
"""Renderers in Ollama's own code: what they make of images has changed from version to version."""
_NONE = "{{ .Prompt }}"
"""What Ollama shows of a model without a template."""
_ANY_OBJECT = JSONSchema({"type": "object"})


class Template(Struct, frozen=True, kw_only=True):
    """What is not known is taken for what most do."""

    places_images: bool = False
    """Texts may say where among them an image stands."""
    keeps_to_json: bool = True
    """`format: "json"` is heeded; a schema always is."""


def to_template(shown: Show) -> Template:
    in_jinja = "{%" in shown.template
    in_go = "{{" in shown.template and not in_jinja and shown.template.strip() != _NONE
    return Template(
        places_images=in_go and not _BUILT_IN.search(shown.modelfile), keeps_to_json=not in_jinja
    )


def depends_on_template(request: GenerationRequest) -> bool:
    if not isinstance(request.prompt, tuple):
        return False
    return isinstance(request.response_format, JSONObject) or any(map(is_mixed, request.prompt))


def fitted(request: GenerationRequest, template: Template) -> GenerationRequest:
    """`request` in words that such a template heeds."""
    if isinstance(request.prompt, tuple) and template.places_images:
        request = replace(request, prompt=placed(request.prompt))
    if isinstance(request.response_format, JSONObject) and not template.keeps_to_json:
        request = replace(request, response_format=_ANY_OBJECT)
    return request
