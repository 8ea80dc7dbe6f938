"""OpenAI's URLs that a local server does not have, refused by name."""

_ABSENT = {
    "assistants": "assistants",
    "batches": "batches",
    "chatkit": "ChatKit",
    "containers": "containers",
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
}
"""First segment after `/v1` -> what it is for.

Source: https://platform.openai.com/docs/api-reference
"""


def explain_absence(path: str) -> str | None:
    """Say what a path of OpenAI's API is for that is not served; `None` for any other path."""
    segments = path.removeprefix("/v1").strip("/").split("/")
    name = _ABSENT.get(segments[0])
    if name is None:
        return None
    return (
        f"'{path[:200]}' is not served: Tandem has no {name}, which OpenAI's API has. "
        "GET /openapi.json lists all URLs."
    )
