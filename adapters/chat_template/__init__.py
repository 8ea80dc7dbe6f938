"""Shapes of conversations that a chat template takes, and how to rewrite the others.

Knows no engine: `plan.find_plan` is a generator that asks for renderings of probe conversations,
`probing.run` and `probing.run_async` answer it with a function of the engine, and
`rewriting.rewrite` applies the resulting plan to the messages of a request.
"""

from adapters.chat_template.form import Form
from adapters.chat_template.plan import Plan, find_plan
from adapters.chat_template.probing import Probe, Probing, Refusal, run, run_async
from adapters.chat_template.rewriting import Rewrite, Rewritten, Writing, rewrite

__all__ = [
    "Form",
    "Plan",
    "Probe",
    "Probing",
    "Refusal",
    "Rewrite",
    "Rewritten",
    "Writing",
    "find_plan",
    "rewrite",
    "run",
    "run_async",
]
