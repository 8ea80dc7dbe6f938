r"""Regular expressions for the `format` of strings, where JSON Schema defines it.

Sources: RFC 3339 (dates, times and, in appendix A, durations), 5321 (mailboxes), 1123 (names of
hosts), 4291 (IPv6), 3986 (URIs), 9562 (UUIDs). Repetitions have limits, as a small model does not
find the end without one: a name of a mailbox has 64 characters, and a name of a host 253.
"""

import re
from collections.abc import Mapping

_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,9})?"
_TIME = f"{_CLOCK}([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_DAYS = "([0-9]{1,9}D|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?)"
_HOURS = "T([0-9]{1,9}S|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?)"
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_MAILBOX = (
    rf"({_ATEXT}{{1,64}}|{_ATEXT}{{1,31}}\.{_ATEXT}{{1,32}}"
    rf"|({_ATEXT}{{1,12}}\.){{2,4}}{_ATEXT}{{1,12}})"
)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,28}[A-Za-z0-9])?"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_HEX = "[0-9A-Fa-f]{1,4}"
_PATH = "([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})"
_QUERY = "([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})"

PATTERNS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[Tt]{_TIME}$",
    "duration": f"^P({_DAYS}({_HOURS})?|{_HOURS}|[0-9]{{1,9}}W)$",
    "email": rf"^{_MAILBOX}@({_LABEL}\.){{1,7}}[A-Za-z]{{2,24}}$",
    "hostname": rf"^{_LABEL}(\.{_LABEL}){{0,7}}$",
    "ipv4": rf"^({_OCTET}\.){{3}}{_OCTET}$",
    "ipv6": f"^(({_HEX}:){{7}}{_HEX}|({_HEX}:){{1,7}}:|:((:{_HEX}){{1,7}}|:)"
    + "".join(f"|({_HEX}:){{1,{n}}}(:{_HEX}){{1,{7 - n}}}" for n in range(1, 7))
    + ")$",
    "uri": rf"^[A-Za-z][A-Za-z0-9+.-]{{0,30}}:{_PATH}{{1,400}}(\?{_QUERY}{{0,400}})?"
    rf"(#{_QUERY}{{0,100}})?$",
    "uuid": "^[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}$",
}

_COMPILED = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}


def has_format(text: str, name: str) -> bool:
    """True where `text` has the format `name`, or where nothing here knows the format."""
    pattern = _COMPILED.get(name)
    return pattern is None or pattern.fullmatch(text) is not None
