"""What to write instead of an expression that does not compile: a guess, by texts only.

The CEL library says what is wrong and where; this knows the mistakes that people make, and shows
their own expression without them where that is certain enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

_STRAIGHT: Final = {
    **dict.fromkeys(range(0x2018, 0x201C), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
}  # as word processors write quotes
_QUOTED: Final = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_NOT_IN: Final = re.compile(r"([\w.'\"-]+)\s+not\s+in\s+([\w.]+)")
_WORDS: Final = (
    (re.compile(r"\band\b"), "&&"),
    (re.compile(r"\bor\b"), "||"),
    (re.compile(r"\bnot\s+"), "!"),
    (re.compile(r"\bis\b"), "=="),
    (re.compile(r"<>"), "!="),
    (re.compile(r"([!=])=="), r"\1="),
    (re.compile(r"(?<![=!<>~])=(?![=~])"), "=="),
    (re.compile(r"(?<!&)&(?!&)"), "&&"),
    (re.compile(r"(?<!\|)\|(?!\|)"), "||"),
)
_CONSTANTS: Final = {
    "True": "true", "TRUE": "true", "False": "false", "FALSE": "false",
    "None": "null", "nil": "null", "NULL": "null", "undefined": "null",
}  # fmt: skip
_MEANT: Final = {
    "claims": "token", "jwt": "token", "claim": "token", "user": "subject", "headers":
    "request.headers", "header": "request.headers", "query": "request.query", "params":
    "request.params", "path": "request.path", "method": "request.method", "host": "request.host",
    "body": "request.body", "req": "request", "time": "request.time", "now": "request.time",
}  # fmt: skip
_FUNCTIONS: Final = (
    "size", "contains", "startsWith", "endsWith", "matches", "lowerAscii", "upperAscii", "split",
    "join", "replace", "substring", "indexOf", "lastIndexOf", "trim", "charAt", "reverse", "exists",
    "all", "exists_one", "filter", "map", "has", "int", "uint", "double", "string", "bool", "bytes",
    "timestamp", "duration", "type", "dyn", "orValue", "optional", "hasValue", "value",
)  # fmt: skip
_FUNCTIONS_MEANT: Final = {
    "len": "size", "length": "size", "count": "size", "lower": "lowerAscii",
    "toLowerCase": "lowerAscii", "lowercase": "lowerAscii", "upper": "upperAscii",
    "toUpperCase": "upperAscii", "includes": "contains", "any": "exists", "match": "matches",
    "strip": "trim", "str": "string", "float": "double", "number": "int", "now": "request.time",
}  # fmt: skip
_TEXT: Final = r"(request\.(?:params|headers|query)(?:\.\w+|\[(?:'[^']*'|\"[^\"]*\")\]))"
_NUMBER: Final = r"(-?\d+(?:\.\d+)?)"
_OPERATOR: Final = r"\s*(==|!=|<=|>=|<|>)\s*"
_TEXT_FIRST: Final = re.compile(_TEXT + _OPERATOR + _NUMBER)
_NUMBER_FIRST: Final = re.compile(_NUMBER + _OPERATOR + _TEXT)


def hint(source: str, message: str, line: int, column: int, known: Iterable[str]) -> str:
    """For what the library says of `source` at this place; empty where nothing comes to mind.
    `known` are the variables."""
    place = sum(len(each) + 1 for each in source.split("\n")[: line - 1]) + column - 1
    if source.translate(_STRAIGHT) != source and "token recognition" in message:
        return f"write straight quotes: {_short(source.translate(_STRAIGHT))}"
    if "undeclared reference" in message:
        return _undeclared(source, message, place, tuple(known))
    if "no matching overload" in message:
        return _mismatch(source, message, place)
    return _syntax(source, message, place) if "Syntax error" in message else ""


def _short(text: str) -> str:
    """An expression as hints show it: in one line, and not too long of one."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:117] + "..."


def _syntax(source: str, message: str, place: int) -> str:
    if re.search(r"recognition error at: '[\"']", message):
        return (
            "this quote is never closed (unquoted YAML text ends before ' #': then quote the whole)"
        )
    if "'<EOF>'" in message and not source[place:].strip():
        return "it ends too early (unquoted YAML text ends before ' #': then quote the whole)"
    if "','" in message and re.search(r"\bin\s*\([^()]*$", source[:place]):
        return "a list stands in brackets: in ['a', 'b']"
    if source[place : place + 2] in ("=~", "~=") or source[place : place + 1] == "~":
        return "a regular expression is held against text like this: x.matches('^a+$')"
    if re.search(r"\bnot\s+in\b", _unquoted(source)):
        return "write " + _short(_NOT_IN.sub(r"!(\1 in \2)", source))
    if re.search(r"\bnot\b.*[=<>]", _unquoted(source)):
        return "not is written !(...), and is &&, or is ||"
    corrected = _corrected(source)
    return f"write {_short(corrected)}" if corrected != source else ""


def _unquoted(source: str) -> str:
    return "".join(_QUOTED.split(source)[::2])


def _corrected(source: str) -> str:
    """With CEL's operators in place of other languages', outside of quotes."""
    pieces = _QUOTED.split(source)
    for at in range(0, len(pieces), 2):
        for pattern, written in _WORDS:
            pieces[at] = pattern.sub(written, pieces[at])
    return "".join(pieces)


def _undeclared(source: str, message: str, place: int, known: tuple[str, ...]) -> str:
    name = message.partition("'")[2].partition("'")[0]
    after = source[place:]
    word = re.match(r"\w+", after)
    if after.startswith("(") or (word and after[word.end() :].lstrip().startswith("(")):
        return _no_function(name, member=re.search(r"\.\s*\w*$", source[:place]) is not None)
    header = re.search(r"(request\.(?:headers|query))\.(\w+(?:-\w+)*)-$", source[:place])
    if header:
        rest = re.match(r"[\w-]+", after)
        return f"write {header[1]}['{header[2]}-{rest[0] if rest else name}']"
    if name in _CONSTANTS:
        return f"write {_CONSTANTS[name]}"
    root, _, member = name.partition(".")
    if member:
        members = {each.partition(".")[2].partition(".")[0] for each in _below(root, known)}
        if members:
            first = member.partition(".")[0]
            close = get_close_matches(first, members, n=1, cutoff=0.6)
            return (
                f"did you mean {root}.{close[0]}?"
                if close
                else f"known: {', '.join(f'{root}.{each}' for each in sorted(members))}"
            )
    if root in _MEANT:
        return f"did you mean {_MEANT[root]}{name[len(root) :]}?"
    roots = sorted({each.partition(".")[0] for each in known})
    close = get_close_matches(root, roots, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}{name[len(root) :]}?"
    quote = "" if member else f", or '{name}' in quotes if it is text"
    return f"known: {', '.join(roots)}{quote}"


def _below(root: str, known: Iterable[str]) -> list[str]:
    return [each for each in known if each.startswith(root + ".")]


def _no_function(name: str, *, member: bool) -> str:
    if name in _FUNCTIONS_MEANT:
        return f"did you mean {_FUNCTIONS_MEANT[name]}?"
    close = get_close_matches(name, _FUNCTIONS, n=1, cutoff=0.7)
    if close:
        return f"did you mean {close[0]}()?"
    return f"{name} is no function" + (f"; a field is read without (): .{name}" if member else "")


def _mismatch(source: str, message: str, place: int) -> str:
    if "Timestamp" in message and "string" in message:
        return "a time is written timestamp('2030-01-31T00:00:00Z')"
    if "string" not in message or not re.search(r"\b(int|uint|double)\b", message):
        return ""
    for pattern, text, operator, number in ((_TEXT_FIRST, 1, 2, 3), (_NUMBER_FIRST, 3, 2, 1)):
        for found in pattern.finditer(source):
            if found.start() <= place < found.end():
                return as_number(found[text], found[operator], found[number], first=text == 1)
    if re.search(_TEXT + r"\s+$", source[:place]) and "@in" in message:
        return "parameters, headers and query values are text: in ['1', '2']"
    return "text and numbers do not compare: int(text) makes a number, string(number) makes text"


def as_number(text: str, operator: str, number: str, *, first: bool = True) -> str:
    """How a text is compared with a number."""
    kind = "double" if "." in number else "int"
    one, other = f"{kind}({text})", number
    said = f"{one} {operator} {other}" if first else f"{other} {operator} {one}"
    if operator not in ("==", "!="):
        return f"it is text: write {said}"
    quoted = f"{text} {operator} '{number}'" if first else f"'{number}' {operator} {text}"
    return f"it is text: write {quoted}, or {said}"
