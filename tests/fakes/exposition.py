"""Rules of `promtool check metrics`, for machines without it.

Source: https://github.com/prometheus/client_golang (prometheus/testutil/promlint/validations)
"""

import re
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

_UNITS = {
    "milliseconds": "seconds",
    "ms": "seconds",
    "minutes": "seconds",
    "hours": "seconds",
    "days": "seconds",
    "percent": "ratio",
    "perc": "ratio",
    "kilobytes": "bytes",
    "megabytes": "bytes",
    "gigabytes": "bytes",
    "mb": "bytes",
    "gb": "bytes",
    "bits": "bytes",
}
_ABBREVIATED = frozenset({"s", "sec", "secs", "b", "kb", "tok", "req", "reqs"})
_TYPES = frozenset({"gauge", "counter", "summary", "histogram", "untyped"})


def families(text: str) -> dict[str, Metric]:
    """The families of an exposition, by name; counters without `_total`."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def problems(text: str) -> list[str]:
    """List the problems of an exposition that `promtool check metrics` reports."""
    found = [problem for family in families(text).values() for problem in _problems(family)]
    headers = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    return found + [f"{name} comes twice" for name in set(headers) if headers.count(name) > 1]


def _problems(family: Metric) -> Iterator[str]:
    name, words = family.name, family.name.split("_")
    if not family.documentation:
        yield f"{name} has no help"
    if family.type == "counter" and not all(s.name.endswith("_total") for s in family.samples):
        yield f"counter {name} has no suffix _total"
    if family.type != "counter" and name.endswith("_total"):
        yield f"{name} is no counter and has the suffix _total"
    if family.type == "gauge" and name.endswith(("_count", "_sum", "_bucket")):
        yield f"gauge {name} has a suffix of histograms"
    if ":" in name or re.search(r"[a-z][A-Z]", name):
        yield f"{name} has a colon or is in camel case"
    if wrong := [word for word in words if word in _UNITS]:
        yield f"{name}: use base unit {_UNITS[wrong[0]]}"
    if set(words) & (_ABBREVIATED | _TYPES):
        yield f"{name} has an abbreviation or its type in its name"
    labels = {label for sample in family.samples for label in sample.labels}
    if family.type != "histogram" and "le" in labels:
        yield f"{name} has the label le"
    if any(re.search(r"[a-z][A-Z]", label) for label in labels):
        yield f"{name} has labels in camel case"
