"""The markers around the reasoning of models, in their templates and in what they write."""

HARMONY_START = "<|channel|>analysis<|message|>"
HARMONY_ANSWER = "<|channel|>final<|message|>"

# Source: mlx_lm.tokenizer_utils._infer_thinking (0.32.2) and the templates of models it lacks.
MARKERS: tuple[tuple[str, str], ...] = (
    (HARMONY_START, "<|end|>"),
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<thinking>", "</thinking>"),
)


def markers_of_template(template: str) -> tuple[str, str] | None:
    """Return the opening and the closing marker in a chat template."""
    if "<|channel|>" in template and "analysis" in template:
        return MARKERS[0]
    return next((pair for pair in MARKERS[1:] if pair[1] in template), None)
