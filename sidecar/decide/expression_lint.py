"""What is certain of an expression before any request: never true, fails without a claim or on a
literal of its own, compares text with a number. From its checked tree; sure of what it says, and
silent otherwise.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from cel.expr.syntax_pb2 import Expr

from sidecar.decide.expressions import FAILED, VARIABLES, Program, checked, compile_expression

Keys = tuple[str, ...]

_COMPARE: Final = {
    "_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">=",
}  # fmt: skip
_IN: Final = ("@in", "_in_")
_SELECT: Final = {"_[_]": False, "_[?_]": True, "_?._": True}  # to whether it may be absent
_NUMBERS: Final = ("int64_value", "uint64_value", "double_value")
# Always text, whatever it looks like.
_TEXTS: Final = ("request.params", "request.headers", "request.query")
# What a request or a caller may lack, and how deep one reads into it.
_MAY_LACK: Final = {"token": 8, "subject.profile": 8, "request.headers": 1, "request.query": 1}
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Traits:
    """`never`: why it is true for no request, or empty; `certainly` if it then never fails either.

    `unguarded`: what it reads (variable and keys) without has(), `in` or `.?` for each of them.
    `numbers`: texts that it compares with numbers: the text, the operator, the number.
    `equal`: what must be equal to which text for it to be true.
    """

    never: str = ""
    certainly: bool = False
    unguarded: tuple[tuple[str, Keys], ...] = ()
    numbers: tuple[tuple[str, str, str], ...] = ()
    equal: tuple[tuple[str, str], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    """Calls that always fail on a literal of theirs, and what that literal is not."""


def traits(program: Program) -> Traits:
    """Of a compiled expression."""
    tree = checked(program)
    reading = _Reading()
    reading.visit(tree)
    equal: dict[str, str] = {}
    never, certainly = "", False
    if constant(tree) is False:
        never, certainly = "is always false", True
    else:
        for name, text, sure in _demands(tree):
            if equal.setdefault(name, text) != text and not never:
                never = f"{name} cannot be both '{equal[name]}' and '{text}'"
                certainly = sure
    return Traits(
        never, certainly, tuple(reading.unguarded()), tuple(reading.numbers), tuple(equal.items()),
        tuple(reading.broken),
    )  # fmt: skip


def spelled(variable: str, keys: Keys, *, optional: bool = False) -> str:
    """As one writes it: token.a['b-c'], token.?a[?'b-c']."""
    mark = "?" if optional else ""
    return variable + "".join(
        f".{mark}{key}" if _WORD.fullmatch(key) else f"[{mark}'{key}']" for key in keys
    )


def constant(expr: Expr) -> bool | None:
    """Its truth value if that is the same for all requests, and it cannot fail."""
    literal = _literal(expr)
    if literal is not None and literal[0] == "bool_value":
        return bool(literal[1])
    if expr.WhichOneof("expr_kind") != "call_expr":
        return None
    name, args = str(expr.call_expr.function), list(expr.call_expr.args)
    if name in ("_&&_", "_||_"):
        decides = name == "_||_"  # this value of one side is that of the whole, failed or not
        found = [constant(each) for each in args]
        if decides in found:
            return decides
        return None if None in found else not decides
    if name == "!_":
        inner = constant(args[0])
        return None if inner is None else not inner
    if name == "_?_:_":
        asked = constant(args[0])
        return None if asked is None else constant(args[1] if asked else args[2])
    if name in ("_==_", "_!=_"):
        one, other = (_literal(each) for each in args)
        if one is None or other is None or one[0] != other[0]:
            return None
        same = one == other
        return same is (name == "_==_")
    return None


def _literal(expr: Expr) -> tuple[str, str | int | bool] | None:
    """Kind and value of text, whole numbers and booleans."""
    if expr.WhichOneof("expr_kind") != "const_expr":
        return None
    kind = expr.const_expr.WhichOneof("constant_kind")
    if kind not in ("string_value", "int64_value", "bool_value"):
        return None
    return kind, getattr(expr.const_expr, kind)


def _demands(expr: Expr) -> list[tuple[str, str, bool]]:
    """What an expression that is true demands to equal a text, and whether that is always there."""
    call = expr.call_expr
    if call.function == "_&&_":
        return [found for each in call.args for found in _demands(each)]
    if call.function != "_==_":
        return []
    for side, other in (call.args, reversed(call.args)):
        text, read = _literal(other), _read(side)
        if (
            text is not None
            and text[0] == "string_value"
            and read is not None
            and not read.optional
        ):
            return [(spelled(read.variable, read.keys), str(text[1]), not read.keys)]
    return []


# Calls whose literal can be tried before any request: an expression that does, and what it is of.
_LITERALS: Final = {
    "matches": ("'x'.matches({text})", "regular expression (RE2)"),
    "timestamp": ("timestamp({text})", "time, such as 2030-01-31T00:00:00Z"),
    "duration": ("duration({text})", "duration, such as 90s or 1h30m"),
}
_ZONES: Final = (
    "timestamp('2030-01-31T00:00:00Z').{name}({text})",
    "time zone, such as Europe/Berlin or +01:00",
)


def _quoted(text: str) -> str:
    """As a literal of CEL."""
    return json.dumps(text, ensure_ascii=False)


def _fails(source: str) -> bool:
    program = compile_expression(source, "any")
    return program.value(program.activation({})) is FAILED


@dataclass(slots=True)
class _Read:
    """`variable` and the keys into it; from `optional` on (0: nowhere) they may be absent."""

    variable: str
    keys: Keys
    optional: int = 0


def _read(expr: Expr) -> _Read | None:
    """What is read by nothing but names, if it is that."""
    kind = expr.WhichOneof("expr_kind")
    if kind == "ident_expr":
        name = expr.ident_expr.name
        return _Read(name, ()) if name in VARIABLES else None
    if kind == "select_expr" and not expr.select_expr.test_only:
        held, key, optional = expr.select_expr.operand, expr.select_expr.field, False
    elif kind == "call_expr" and expr.call_expr.function in _SELECT:
        held, by = expr.call_expr.args
        text = _literal(by)
        if text is None or text[0] != "string_value":
            return None
        key, optional = str(text[1]), _SELECT[expr.call_expr.function]
    else:
        return None
    inner = _read(held)
    if inner is None:
        return None
    keys = (*inner.keys, key)
    return _Read(inner.variable, keys, inner.optional or (len(keys) if optional else 0))


@dataclass(slots=True)
class _Reading:
    """Finds what a tree reads and compares."""

    reads: dict[tuple[str, Keys], None] = field(default_factory=dict)
    guarded: set[tuple[str, Keys]] = field(default_factory=set)
    numbers: list[tuple[str, str, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def unguarded(self) -> list[tuple[str, Keys]]:
        """The longest of those of which some part is asked for nowhere, in order."""
        bad = {
            (variable, keys)
            for variable, keys in self.reads
            if any(
                (variable, keys[:length]) not in self.guarded for length in range(1, len(keys) + 1)
            )
        }
        inner = {(variable, keys[:length]) for variable, keys in bad for length in range(len(keys))}
        return sorted(bad - inner)

    def visit(self, expr: Expr) -> None:
        read = _read(expr)
        if read is not None:
            self._note(read)
            return
        kind = expr.WhichOneof("expr_kind")
        if kind == "select_expr":
            inner = _read(expr.select_expr.operand)
            if inner is None:
                self.visit(expr.select_expr.operand)
            elif expr.select_expr.test_only:
                self._asked(inner, expr.select_expr.field)
        elif kind == "call_expr":
            self._call(expr.call_expr)
        elif kind == "list_expr":
            for each in expr.list_expr.elements:
                self.visit(each)
        elif kind == "struct_expr":
            for entry in expr.struct_expr.entries:
                if entry.HasField("map_key"):
                    self.visit(entry.map_key)
                self.visit(entry.value)
        elif kind == "comprehension_expr":
            loop = expr.comprehension_expr
            for each in (
                loop.iter_range, loop.accu_init, loop.loop_condition, loop.loop_step, loop.result,
            ):  # fmt: skip
                self.visit(each)

    def _call(self, call: Expr.Call) -> None:
        self._compared(call)
        self._tried(call)
        if call.function in _IN:
            key, held = _literal(call.args[0]), _read(call.args[1])
            if key is not None and key[0] == "string_value" and held is not None:
                self._asked(held, str(key[1]))
                return
        if call.HasField("target"):
            target = _read(call.target)
            if call.function == "value" and target is not None:
                target.optional = 0  # fails where there is none
                self._note(target)
            else:
                self.visit(call.target)
        for each in call.args:
            self.visit(each)

    def _note(self, read: _Read) -> None:
        """What comes behind a key that may be absent may be absent too."""
        first = read.optional or len(read.keys) + 1
        depth = _MAY_LACK.get(read.variable, 0)
        if depth and first > 1:
            self.reads[read.variable, read.keys[: min(first - 1, depth)]] = None
        for length in range(first, len(read.keys) + 1):
            self.guarded.add((read.variable, read.keys[:length]))

    def _asked(self, held: _Read, key: str) -> None:
        self._note(held)
        self.guarded.add((held.variable, (*held.keys, key)))

    def _tried(self, call: Expr.Call) -> None:
        literal = _literal(call.args[-1]) if call.args else None
        if literal is None or literal[0] != "string_value":
            return
        name, text = str(call.function), str(literal[1])
        what = _ZONES if name.startswith("get") else _LITERALS.get(name)
        if what is not None and _fails(what[0].format(name=name, text=_quoted(text))):
            self.broken.append((f"{name}('{text}')", what[1]))

    def _compared(self, call: Expr.Call) -> None:
        if call.function in _COMPARE:
            for side, other in (call.args, reversed(call.args)):
                text, number = _always_text(side), _number(other)
                if text and number:
                    self.numbers.append((text, _COMPARE[call.function], number))
        elif call.function in _IN:
            text = _always_text(call.args[0])
            number = next(filter(None, map(_number, call.args[1].list_expr.elements)), "")
            if text and number:
                self.numbers.append((text, "in", number))


def _always_text(expr: Expr) -> str:
    """How a parameter, header or query value is read, if it is one; through dyn() too."""
    if expr.call_expr.function == "dyn" and len(expr.call_expr.args) == 1:
        expr = expr.call_expr.args[0]
    read = _read(expr)
    if read is None or read.variable not in _TEXTS or len(read.keys) != 1 or read.optional:
        return ""
    return spelled(read.variable, read.keys)


def _number(expr: Expr) -> str:
    """A literal one, as text."""
    if expr.WhichOneof("expr_kind") != "const_expr":
        return ""
    kind = expr.const_expr.WhichOneof("constant_kind")
    return str(getattr(expr.const_expr, kind)) if kind in _NUMBERS else ""
