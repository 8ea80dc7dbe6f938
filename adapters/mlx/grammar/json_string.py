"""Rewrite the grammar of a text so that it matches the text as it stands inside a JSON string.

The text of a custom tool is the argument of a call, so the model writes it with JSON's escapes: a
line break as `\\n`, a quotation mark as `\\"`. Each character has exactly one form here (that of
`json.dumps` without `ensure_ascii`), so replacing each character of the terminals by its form gives
a grammar of the escaped texts: alternatives, sequences and repetitions keep their meaning.

An escape is a lexeme of its own. llguidance ends a lexeme by one byte of look-ahead, and all
escapes begin with the same byte, so a terminal that may contain one becomes a rule: `/.*/` is
written `(/[^"\\]+/ | ESCAPE)*`. Every text of the result is a text of the grammar.

The notation is that of llguidance: https://github.com/guidance-ai/llguidance (docs/syntax.md and
parser/src/lark), with the regular expressions of https://docs.rs/regex/latest/regex/#syntax.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import regex

from adapters.lark_terminals import TERMINALS

_FORMS = {chr(code): json.dumps(chr(code))[1:-1] for code in (*range(0x20), 0x22, 0x5C)}
"""Characters that JSON does not hold as they are -> their form."""
_BARE = r'[^\\"\x00-\x1f]'
"""The other characters, as a class."""

_GRAMMAR_TOKEN = re.compile(
    r"""
      (?P<blank>(?:\#|//)[^\n]*|[^\S\n]+|\s*\n\s*(?=\|))
    | (?P<line>\s*\n)
    | (?P<common>%import\s+common\s*(?:\.\s*(?P<one>\w+)(?:\s*->\s*(?P<alias>\w+))?
                                     |\((?P<several>[^)]*)\)))
    | (?P<range>"(?P<low>(?:\\.|[^"\\])+)"\s*\.\.\s*"(?P<high>(?:\\.|[^"\\])+)")
    | (?P<string>"(?P<text>(?:\\.|[^"\\\x00-\x1f\x7f])*)"(?P<fold>i?))
    | (?P<regex>/(?P<pattern>(?:\\.|[^/\\])+)/(?P<flags>[a-z]*))
    | (?P<ignore>%ignore)
    | (?P<times>~\s*\d+(?:\s*\.\.\s*\d+)?)
    | (?P<refused>%[a-z]+|<[^<>\s]+>|@[\w-]+|~)
    | (?P<name>[A-Za-z_][\w-]*)
    | (?P<other>->|.)
    """,
    re.VERBOSE | re.DOTALL,
)

_ATOM = re.compile(
    r"""
      (?P<code>\\(?:[xuU]\{(?P<braced>[0-9A-Fa-f]+)\}|x(?P<two>[0-9A-Fa-f]{2})
               |u(?P<four>[0-9A-Fa-f]{4})|U(?P<eight>[0-9A-Fa-f]{8})))
    | (?P<named>\\[nrtfva])
    | (?P<category>\\(?:[dDwWsS]|[pP](?:\{[^}]*\}|\w)))
    | (?P<place>\\[bBAzZG<>]|\\[0-9])
    | (?P<literal>\\.)
    | (?P<group>\((?!\?)
               |\(\?(?:P?<\w+>|(?P<set>[imsUu]*)(?:-(?P<unset>[imsUu]+))?(?P<end>[:)])))
    | (?P<ahead>\(\?)
    | (?P<close>\))
    | (?P<lazy>[*+?}][?+])
    | (?P<operator>[|*+?]|\{\d*,?\d*\}(?!\?))
    | (?P<anchor>[$^])
    | (?P<any>\.)
    | (?P<class>\[)
    | (?P<character>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a"}


_ESCAPES = ('"\\\\', "/\\\\")
"""Beginnings of the lexemes of escapes, as they are written: of one, and of several."""


class NotInStringError(ValueError):
    """A part of the grammar has no form inside a JSON string; the text says which, for clients."""


class _Flags(NamedTuple):
    folds: bool = False
    """Letters match in upper and lower case."""
    dot_all: bool = False
    """A dot matches a line break."""


def grammar_in_string(grammar: str) -> str:
    """Return a grammar, in Lark's notation, of the escaped texts of `grammar`.

    Raises:
        NotInStringError: it uses control tokens, other grammars, options of rules, complements,
            look-around or an unknown import.
    """
    statements = _statements(grammar)
    mixed = _mixed_terminals(statements)
    return "\n".join([_rewrite(statement, mixed, statements) for statement in statements]) + "\n"


def pattern_in_string(pattern: str) -> str:
    """Return a grammar of the escaped texts that the regular expression `pattern` matches in full.

    Raises:
        NotInStringError: as `grammar_in_string`.
    """
    inner = pattern.removeprefix("^").removesuffix("$")
    return f"start: {_pattern(inner, _Flags())}\n"


class _Statement(NamedTuple):
    """A definition, or a directive without a name."""

    name: str
    tokens: list[re.Match[str]]
    """From the name to the end; those of a directive begin with it."""

    @property
    def is_terminal(self) -> bool:
        return self.name.lstrip("_")[:1].isupper()


def _statements(grammar: str) -> list[_Statement]:
    """Split a grammar into statements, of which each begins a line; blanks and comments go."""
    lines: list[list[re.Match[str]]] = [[]]
    for token in _GRAMMAR_TOKEN.finditer(grammar):
        match token.lastgroup:
            case "line":
                lines.append([])
            case "blank":
                pass
            case "refused":
                raise NotInStringError(f"'{token[0][:40]}'")
            case _:
                lines[-1].append(token)
    statements: list[_Statement] = []
    for line in filter(None, lines):
        name = next((t[0] for t in line if t.lastgroup == "name"), "")
        begins = line[0].lastgroup in ("common", "ignore") or any(t[0] == ":" for t in line)
        if begins and len(line) > 1 and line[1][0] == "[":
            raise NotInStringError(f"The options of '{name[:40]}'")
        if begins:
            statements.append(_Statement("" if line[0].lastgroup == "ignore" else name, line))
        elif statements:
            statements[-1].tokens.extend(line)
        else:
            raise NotInStringError(f"'{line[0][0][:40]}'")
    return [each for statement in statements for each in _imported(statement)]


def _imported(statement: _Statement) -> list[_Statement]:
    """Write an import as definitions."""
    token = statement.tokens[0]
    if token.lastgroup != "common":
        return [statement]
    names = [token["one"]] if token["one"] else [n.strip() for n in token["several"].split(",")]
    if unknown := [name for name in names if name not in TERMINALS]:
        raise NotInStringError(f"'%import common.{unknown[0][:40]}'")
    written = "\n".join([f"{token['alias'] or name}: /{TERMINALS[name]}/" for name in names])
    return _statements(written)


def _mixed_terminals(statements: list[_Statement]) -> frozenset[str]:
    """Return the terminals that may contain an escape: they become rules."""
    terminals = [statement for statement in statements if statement.is_terminal]
    mixed: frozenset[str] = frozenset()
    while True:
        found = frozenset(
            [s.name for s in terminals if any(_is_mixed(token, mixed) for token in s.tokens[1:])]
        )
        if found == mixed:
            return mixed
        mixed = found


def _is_mixed(token: re.Match[str], mixed: frozenset[str]) -> bool:
    """True if a text of `token` may contain an escape; `mixed`: the terminals known to."""
    match token.lastgroup:
        case "string":
            return not _FORMS.keys().isdisjoint(_unescaped(token["text"]))
        case "range" | "regex":
            return any(escape in _literal(token) for escape in _ESCAPES)
        case _:
            return token[0] in mixed


def _rewrite(statement: _Statement, mixed: frozenset[str], statements: list[_Statement]) -> str:
    tokens = statement.tokens
    if tokens[0].lastgroup == "ignore":
        return _ignored(statement, mixed, statements)
    if statement.is_terminal and statement.name not in mixed:
        return " ".join([token[0] for token in tokens])
    if statement.is_terminal and any(token[0] == "&" for token in tokens):
        raise NotInStringError(f"'&' in '{statement.name[:40]}'")
    return " ".join([_render(token, mixed) for token in tokens])


def _render(token: re.Match[str], mixed: frozenset[str]) -> str:
    """Write a token of a rule."""
    if token.lastgroup in ("string", "range", "regex"):
        return _literal(token) if _is_mixed(token, mixed) else token[0]
    return _rule_of(token[0]) if token[0] in mixed else token[0]


def _rule_of(terminal: str) -> str:
    return f"in_string_{terminal.strip('_').lower()}{terminal.count('_')}"


def _ignored(statement: _Statement, mixed: frozenset[str], statements: list[_Statement]) -> str:
    """Write `%ignore`: bare characters and escapes are ignored one after the other.

    Raises:
        NotInStringError: it ignores escapes other than as characters of one class.
    """
    ignored = statement.tokens[1:]
    if not any(_is_mixed(token, mixed) for token in ignored):
        return " ".join([token[0] for token in statement.tokens])
    if len(ignored) == 1 and ignored[0][0] in mixed:
        definition = next(each for each in statements if each.name == ignored[0][0])
        ignored = definition.tokens[2:]
    if len(ignored) == 1 and ignored[0].lastgroup == "regex":
        core = _REPEATED.fullmatch(ignored[0]["pattern"])
        if core is not None and (lexemes := _only_class(core["part"])):
            return "\n".join([f"%ignore {lexeme}" for lexeme in lexemes])
    raise NotInStringError("This '%ignore'")


_REPEATED = re.compile(r"\(?(?P<part>.*?)\)?[*+]?", re.DOTALL)


def _only_class(pattern: str) -> list[str]:
    """Return the lexemes of a pattern that is one class; empty for others."""
    atom = _ATOM.match(pattern)
    if atom is None or atom.lastgroup not in ("category", "any", "class"):
        return []
    end = _class_end(pattern, 1) if atom.lastgroup == "class" else atom.end()
    return _class_lexemes(_class_text(pattern, _Flags()), _Flags()) if end == len(pattern) else []


def _literal(token: re.Match[str]) -> str:
    """Write a string, range or regular expression as lexemes."""
    match token.lastgroup:
        case "range":
            low, high = _character_code(token["low"]), _character_code(token["high"])
            return _class(f"[{low}-{high}]", _Flags())
        case "string" if token["fold"]:
            return _pattern(re.escape(_unescaped(token["text"])), _Flags(folds=True))
        case "string":
            return " ".join(_segments(_unescaped(token["text"])))
        case _:
            flags = token["flags"]
            if set(flags) - set("imsu"):
                raise NotInStringError(f"The flags '{flags}' of a regular expression")
            return _pattern(token["pattern"], _Flags("i" in flags, "s" in flags))


def _segments(text: str) -> Iterator[str]:
    """Yield the lexemes of a text: runs of bare characters, and single escapes."""
    for part in re.findall(r'[^"\\\x00-\x1f]+|["\\\x00-\x1f]', text):
        yield json.dumps(_FORMS.get(part, part), ensure_ascii=False)


def _unescaped(text: str) -> str:
    """Read the inside of a string of a grammar."""
    try:
        codes = re.sub(r"\\x([0-9A-Fa-f]{2})", r"\\u00\1", text)
        return json.loads(f'"{codes}"')
    except json.JSONDecodeError:
        raise NotInStringError(f'The string "{text[:40]}"') from None


def _character_code(text: str) -> str:
    character = _unescaped(text)
    if len(character) != 1:
        raise NotInStringError(f'The range that begins or ends with "{text[:40]}"')
    return f"\\U{ord(character):08X}"


def _pattern(pattern: str, flags: _Flags) -> str:
    """Write a regular expression as the expression of a rule, which has the same operators."""
    parts = [""]
    for part in _atoms(pattern, flags):
        if parts[-1] in ("", "(", "|") and part in (")", "|"):
            parts.append('""')
        parts.append(part)
    if parts[-1] in ("", "|"):
        parts.append('""')
    return f"({' '.join(parts[1:])})"


def _atoms(pattern: str, flags: _Flags) -> Iterator[str]:
    """Yield the lexemes, operators and brackets of a pattern."""
    at = 0
    outer: list[_Flags] = []
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        assert atom is not None  # noqa: S101 - the last alternative matches any character.
        at = atom.end()
        match atom.lastgroup:
            case "code":
                digits = atom["braced"] or atom["two"] or atom["four"] or atom["eight"]
                yield _character(chr(int(digits, 16)), flags)
            case "named":
                yield _character(_NAMED[atom[0][1]], flags)
            case "literal":
                yield _character(atom[0][1], flags)
            case "character":
                yield _character(atom[0], flags)
            case "category" | "any" | "class":
                if atom.lastgroup == "class":
                    at = _class_end(pattern, at)
                run = _RUN_AT_END.fullmatch(pattern, at)
                yield _class(_class_text(pattern[atom.start() : at], flags), flags, run is not None)
            case "group":
                inner = _with(flags, atom["set"] or "", atom["unset"] or "")
                if atom["end"] != ")":
                    outer.append(flags)
                    yield "("
                flags = inner
            case "close":
                flags = outer.pop() if outer else flags
                yield ")"
            case "operator":
                yield atom[0]
            case _:
                raise NotInStringError(f"'{atom[0]}' in a regular expression")


_RUN_AT_END = re.compile(r"[*+]\)*|\)+[*+]\)*")
"""The rest of a pattern after a class that is repeated up to the end of its regular expression."""


def _class_text(atom: str, flags: _Flags) -> str:
    if atom == ".":
        return r"[\s\S]" if flags.dot_all else r"[^\n]"
    return re.sub(r"\\[xuU]\{([0-9A-Fa-f]+)\}", lambda m: f"\\U{m[1]:0>8}", atom)


def _with(flags: _Flags, added: str, removed: str) -> _Flags:
    folds = ("i" in added or flags.folds) and "i" not in removed
    dot_all = ("s" in added or flags.dot_all) and "s" not in removed
    return _Flags(folds, dot_all)


def _character(character: str, flags: _Flags) -> str:
    form = _FORMS.get(character, character)
    folds = flags.folds and form == character and character.lower() != character.upper()
    return json.dumps(form, ensure_ascii=False) + ("i" if folds else "")


def _class_end(pattern: str, at: int) -> int:
    """Return the place after the `]` of the class that begins before `at`."""
    depth = 1
    first = at
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif character == "[":
            depth += 1
            first = at + 1
        elif character == "]" and at > first + (pattern[first] == "^"):
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise NotInStringError(f"The class '{pattern[-40:]}'")


def _class(characters: str, flags: _Flags, is_run: bool = False) -> str:
    """Write a class; `is_run` as for `_class_lexemes`."""
    return f"({' | '.join(_class_lexemes(characters, flags, is_run))})"


def _class_lexemes(characters: str, flags: _Flags, is_run: bool = False) -> list[str]:
    """Return the lexemes of the bare characters of a class, and of the escapes of the others.

    `is_run`: it is repeated up to the end of a terminal, where bare characters are one lexeme.
    """
    has_bare, forms = _split(characters, flags.folds)
    fold, more = ("i" if flags.folds else ""), ("+" if is_run else "")
    lexemes = [f"/[{characters}&&{_BARE}]{more}/{fold}"] if has_bare else []
    if forms:
        lexemes.append(f"/{'|'.join(map(re.escape, forms))}/")
    return lexemes


@cache
def _split(characters: str, folds: bool) -> tuple[bool, tuple[str, ...]]:
    """Return whether a class has bare characters, and the forms of the others.

    Raises:
        NotInStringError: the class is malformed, or empty.
    """
    try:
        flags = regex.V1 | (regex.IGNORECASE if folds else 0)
        whole = regex.compile(characters, flags)
        bare = regex.compile(f"[{characters}&&{_BARE}]", flags)
    except regex.error:
        raise NotInStringError(f"The class '{characters[:40]}'") from None
    forms = tuple([form for c, form in _FORMS.items() if whole.fullmatch(c)])
    has_bare = bare.search(_sample()) is not None
    if not forms and not has_bare:
        raise NotInStringError(f"The empty class '{characters[:40]}'")
    return has_bare, forms


@cache
def _sample() -> str:
    """All bare characters of Unicode."""
    codes = (*range(0x20, 0xD800), *range(0xE000, 0x110000))
    return "".join([chr(code) for code in codes if chr(code) not in _FORMS])
