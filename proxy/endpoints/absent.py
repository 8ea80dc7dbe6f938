"""URLs of other APIs that a local server does not have, refused by name."""

from msgspec import Struct

from proxy.endpoints.ollama.answer import OLLAMA_ERRORS
from proxy.http.dispatch import Absence
from proxy.http.json_response import ErrorDialect


class _API(Struct, frozen=True):
    owner: str
    root: str
    names: dict[str, str]
    """Path after `root`, at its beginning -> what it is for."""
    errors: ErrorDialect | None = None
    """`None`: by the headers of the client, as other APIs have these paths as well."""


_APIS = (
    _API(
        "Anthropic",
        "/v1/",
        {
            "agents": "agents",
            "complete": "text completions",
            "environments": "environments of agents",
            "messages/batches": "batches of messages",
            "sessions": "sessions of agents",
        },
    ),
    _API(
        "OpenAI",
        "/v1/",
        {
            "assistants": "assistants",
            "audio/voice_consents": "voices of users",
            "batches": "batches",
            "chatkit": "ChatKit",
            "containers": "containers",
            "content_provenance_checks": "checks of where content comes from",
            "evals": "evals",
            "files": "files",
            "fine_tuning": "fine-tuning",
            "fine-tunes": "fine-tuning",
            "images": "generation of images",
            "moderations": "moderations",
            "organization": "administration of organizations",
            "projects": "administration of projects",
            "realtime": "realtime sessions",
            "skills": "skills",
            "threads": "threads of assistants",
            "uploads": "uploads",
            "vector_stores": "vector stores",
            "videos": "generation of videos",
        },
    ),
    _API(
        "Ollama",
        "/api/",
        {
            "experimental": "experiments",
            "me": "accounts of ollama.com",
            "push": "uploads of models to a registry",
            "signin": "accounts of ollama.com",
            "signout": "accounts of ollama.com",
            "status": "models of ollama.com",
            "user": "accounts of ollama.com",
            "web_fetch": "search of the web",
            "web_search": "search of the web",
        },
        OLLAMA_ERRORS,
    ),
)
"""Sources: https://platform.openai.com/docs/api-reference, https://docs.claude.com/en/api and
`server/routes.go` of Ollama."""


def explain_absence(path: str) -> Absence | None:
    """Say what a path of another API is for that is not served; `None` for any other path."""
    for api in _APIS:
        for name, what in api.names.items():
            place = f"{api.root}{name}"
            if path.rstrip("/") == place or path.startswith(f"{place}/"):
                return Absence(
                    f"'{path[:200]}' is not served: Tandem has no {what}, which {api.owner}'s API "
                    "has. GET /openapi.json lists all URLs.",
                    api.errors,
                )
    return None
