"""Workarounds for models that ignore image positions or `format: json`, or have stop strings.

A chat is rendered by Ollama, from a template in Go, or by llama-server, from the weights' own in
Jinja; `/api/show` gives the one that counts.

Source: https://github.com/ollama/ollama/blob/main/server/prompt.go and `llm/llama_server.go`.
"""

import re
from ast import literal_eval

from msgspec import Struct
from msgspec.structs import replace

from adapters.ollama.translate.image_placement import is_mixed, placed
from adapters.ollama.wire import Show
from adapters.request import GenerationRequest, JSONObject, JSONSchema

_BUILT_IN = re.compile(r"^(RENDERER|PARSER) ", re.MULTILINE)
"""Renderers in Ollama's own code: their treatment of images changes with the version."""
_NONE = "{{ .Prompt }}"
"""Shown by Ollama for a model without a template."""
_STOP = re.compile(r'^stop\s+(".*")$', re.MULTILINE)
"""A string in Go, of which those of Python are a superset."""
_ANY_OBJECT = JSONSchema({"type": "object"})


class Template(Struct, frozen=True, kw_only=True):
    """The defaults are what most templates do."""

    places_images: bool = False
    """`[img]` in a text is the place of an image."""
    keeps_to_json: bool = True
    """`format: "json"` is enforced; a schema always is."""
    stops: tuple[str, ...] = ()
    """Stop strings of the Modelfile, which those of a request replace."""


def to_template(shown: Show) -> Template:
    in_jinja = "{%" in shown.template
    in_go = "{{" in shown.template and not in_jinja and shown.template.strip() != _NONE
    return Template(
        places_images=in_go and not _BUILT_IN.search(shown.modelfile),
        keeps_to_json=not in_jinja,
        stops=tuple(map(literal_eval, _STOP.findall(shown.parameters))),
    )


def depends_on_template(request: GenerationRequest) -> bool:
    if not isinstance(request.prompt, tuple):
        return False
    needs_json = isinstance(request.response_format, JSONObject)
    return needs_json or request.names_stop or any(map(is_mixed, request.prompt))


def fitted(request: GenerationRequest, template: Template) -> GenerationRequest:
    """Return `request` in terms that `template` does not ignore."""
    if isinstance(request.prompt, tuple) and template.places_images:
        request = replace(request, prompt=placed(request.prompt))
    if isinstance(request.response_format, JSONObject) and not template.keeps_to_json:
        request = replace(request, response_format=_ANY_OBJECT)
    if request.names_stop and not set(request.stop).isdisjoint(template.stops):
        # Ollama would cut the string off, and `StopReader` not find it.
        others = [stop for stop in template.stops if stop not in request.stop]
        request = replace(request, options={**request.options, "stop": others})
    return request
