"""CEL: the one place that knows the CEL library.

An expression is compiled and type-checked once; its footprint says what it reads, and only that is
converted for a request. A result is True, False or FAILED (a CEL error, a raised error, a value of
the wrong kind); what failing means is the evaluator's business.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from cel.expr import checked_pb2, syntax_pb2
from cel_expr_python import cel
from google.protobuf import any_pb2, timestamp_pb2

from sidecar.decide.expression_hints import hint
from sidecar.decide.pace import pause

_STRINGS: Final = cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
_DYNAMIC: Final = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_LIST: Final = cel.Type.List(cel.Type.STRING)

VARIABLES: Final[Mapping[str, Any]] = {
    "request.method": cel.Type.STRING,
    "request.path": cel.Type.STRING,
    "request.host": cel.Type.STRING,
    "request.scheme": cel.Type.STRING,
    "request.headers": _STRINGS,
    "request.query": _STRINGS,
    "request.params": _STRINGS,
    "request.address": cel.Type.STRING,
    "request.time": cel.Type.TIMESTAMP,
    "request.size": cel.Type.INT,
    "request.contentType": cel.Type.STRING,
    "request.body": cel.Type.DYN,
    "token": _DYNAMIC,
    "subject.id": cel.Type.STRING,
    "subject.anonymous": cel.Type.BOOL,
    "subject.consents": _LIST,
    "subject.profile": _DYNAMIC,
    "subject.segments": _LIST,
    "subject.risk": cel.Type.DYN,
    "source.spiffe": cel.Type.STRING,
    "source.namespace": cel.Type.STRING,
    "source.serviceAccount": cel.Type.STRING,
    "source.segments": _LIST,
    "enriched": _DYNAMIC,
}

Footprint = Mapping[str, frozenset[str] | None]
"""What an expression reads: variable to keys, or None where it reads the whole."""


class _Failed:
    """The third truth value."""

    def __repr__(self) -> str:
        return "FAILED"

    def __bool__(self) -> bool:
        raise TypeError("a failed expression is neither true nor false")


FAILED: Final = _Failed()
Truth = bool | _Failed


class ExpressionInvalid(ValueError):
    """Found at compile time. `line` and `column` are within the expression, from 1."""

    def __init__(self, message: str, line: int = 1, column: int = 1, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression. `guarded` are the keys that it asks for with has(), `in` or `.?`;
    `members` is what it reads of each enricher's answer."""

    source: str
    footprint: Footprint
    guarded: Footprint
    members: Footprint
    _environment: Any
    _expression: Any

    def activation(self, values: Mapping[str, Any]) -> Any:
        """Values bound for this program; keys as in its footprint."""
        return self._environment.Activation(values)

    def truth(self, activation: Any) -> Truth:
        """True, False or FAILED; never raises."""
        try:
            value = self._expression.eval(activation).value()
        except Exception:  # noqa: BLE001  (the library raises bare errors; all mean failed)
            return FAILED
        if value is True or value is False:
            return bool(value)
        return FAILED

    def text(self, activation: Any) -> str | _Failed:
        """A string, number or boolean as text, or FAILED; never raises."""
        try:
            result = self._expression.eval(activation)
            if result.type() == cel.Type.ERROR:
                return FAILED
            value = result.value()
        except Exception:  # noqa: BLE001  (likewise)
            return FAILED
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str | int | float):
            return str(value)
        return FAILED

    def value(self, activation: Any) -> Any:
        """Any value as plain Python (no optional value), or FAILED; never raises."""
        try:
            result = self._expression.eval(activation)
            return FAILED if result.type() == cel.Type.ERROR else result.plain_value()
        except Exception:  # noqa: BLE001  (likewise)
            return FAILED


def timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """A time, with its zone, as the library takes it inside a map: there it refuses a datetime.
    Raises ValueError and OverflowError for what is not from year 1 to 9999 in UTC."""
    found = timestamp_pb2.Timestamp()
    found.FromDatetime(moment.astimezone(UTC))
    return found


@functools.cache
def _environment(size: int) -> Any:
    """0: no extension; 1: optional values; 2: all that an expression may use.

    What compiles in a smaller environment means the same in a larger one. Each extension takes
    2.6 MiB, so none is loaded before an expression needs it.
    """
    extensions = []
    if size > 0:
        from cel_expr_python.ext import ext_optional

        extensions.append(ext_optional.ExtOptional())
    if size > 1:
        from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_strings

        extensions += [
            ext_strings.ExtStrings(),
            ext_math.ExtMath(),
            ext_encoders.ExtEncoders(),
            ext_bindings.ExtBindings(),
        ]
    return cel.NewEnv(variables=VARIABLES, extensions=extensions)


_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


@functools.lru_cache(maxsize=50_000)
def compile_expression(source: str, kind: Literal["boolean", "text", "any"]) -> Program:
    """Equal expressions share one program. Raises ExpressionInvalid."""
    environment, expression = _compiled(source)
    result = expression.return_type()
    wanted = (
        (cel.Type.BOOL, cel.Type.DYN)
        if kind == "boolean"
        else (cel.Type.STRING, cel.Type.INT, cel.Type.DOUBLE, cel.Type.BOOL, cel.Type.DYN)
    )
    if kind != "any" and result not in wanted:
        name = str(result.name()).lower()
        raise ExpressionInvalid(f"gives {name}, where a {kind} is expected")
    pause()
    walk = _Walk(source)
    walk.visit(_checked(expression.serialize()))
    return Program(
        source,
        walk.frozen(walk.reads),
        walk.frozen(walk.guarded),
        walk.frozen(walk.members),
        environment,
        expression,
    )


def _compiled(source: str) -> tuple[Any, Any]:
    """The smallest environment that knows all that `source` uses, and its program there."""
    for size in (0, 1):
        pause()
        with contextlib.suppress(Exception):  # whatever is wrong, the largest one says it
            return _environment(size), _environment(size).compile(source)
    pause()
    try:
        return _environment(2), _environment(2).compile(source)
    except Exception as error:  # noqa: BLE001  (mapped here, once)
        raise _invalid(error, source) from None


def _invalid(error: Exception, source: str) -> ExpressionInvalid:
    match = _ERROR.search(str(error))
    if not match:
        return ExpressionInvalid(str(error).splitlines()[0])
    message = match.group(3).replace(" (in container '')", "")
    line, column = int(match.group(1)), int(match.group(2))
    return ExpressionInvalid(message, line, column, hint(source, message, line, column, VARIABLES))


def checked(program: Program) -> syntax_pb2.Expr:
    """The tree of a compiled expression; names of variables are those of VARIABLES."""
    return _checked(program._expression.serialize()).expr


def _checked(serialized: bytes) -> checked_pb2.CheckedExpr:
    packed = any_pb2.Any()
    packed.ParseFromString(serialized)
    checked = checked_pb2.CheckedExpr()
    checked.ParseFromString(packed.value)
    return checked


class _Walk:
    """Finds what a checked expression reads. Whatever it does not understand reads the whole."""

    INDEX: Final = frozenset(("_[_]", "_[?_]", "_?._"))
    # With callers' data as their arguments these grow a header of 40 KiB into gigabytes.
    _LITERALS_ONLY: Final = frozenset(("replace", "join"))

    def __init__(self, source: str) -> None:
        self._source = source
        self._positions: Mapping[int, int] = {}
        self.reads: dict[str, set[str] | None] = {}
        self.guarded: dict[str, set[str] | None] = {}
        self.members: dict[str, set[str] | None] = {}

    @staticmethod
    def frozen(found: dict[str, set[str] | None]) -> Footprint:
        return {
            name: None if keys is None else frozenset(keys) for name, keys in sorted(found.items())
        }

    def _read(self, name: str, key: str | None, *, guarded: bool = False) -> None:
        if name not in VARIABLES:
            return  # a comprehension's own variable
        for found in (self.reads, self.guarded) if guarded else (self.reads,):
            keys = found.setdefault(name, set())
            if key is None:
                found[name] = None
            elif keys is not None:
                keys.add(key)

    def visit(self, checked: checked_pb2.CheckedExpr) -> None:
        """Walk a whole expression. Raises ExpressionInvalid for what no rule may do."""
        self._positions = checked.source_info.positions
        self._visit(checked.expr)

    def _visit(self, expr: syntax_pb2.Expr) -> None:
        kind = expr.WhichOneof("expr_kind")
        self._member(expr)
        if kind == "ident_expr":
            self._read(expr.ident_expr.name, None)
        elif kind == "select_expr":
            operand = expr.select_expr.operand
            if operand.WhichOneof("expr_kind") == "ident_expr":
                self._read(
                    operand.ident_expr.name,
                    expr.select_expr.field,
                    guarded=expr.select_expr.test_only,
                )
            else:
                self._visit(operand)
        elif kind == "call_expr":
            self._call(expr.id, expr.call_expr)
        elif kind == "list_expr":
            self._each(expr.list_expr.elements)
        elif kind == "struct_expr":
            for entry in expr.struct_expr.entries:
                if entry.HasField("map_key"):
                    self._visit(entry.map_key)
                self._visit(entry.value)
        elif kind == "comprehension_expr":
            loop = expr.comprehension_expr
            self._each(
                (loop.iter_range, loop.accu_init, loop.loop_condition, loop.loop_step, loop.result)
            )

    def _member(self, expr: syntax_pb2.Expr) -> None:
        """Note `enriched.NAME.MEMBER`, in whatever spelling."""
        outer = _selected(expr)
        inner = _selected(outer[0]) if outer is not None else None
        if outer is None or inner is None or inner[0].ident_expr.name != "enriched":
            return
        members = self.members.setdefault(inner[1], set())
        if members is not None:
            members.add(outer[1])

    def _each(self, expressions: Iterable[syntax_pb2.Expr]) -> None:
        for expr in expressions:
            self._visit(expr)

    def _call(self, place: int, call: syntax_pb2.Expr.Call) -> None:
        if call.function in self._LITERALS_ONLY:
            self._require_literals(place, call)
        if call.function in self.INDEX and len(call.args) == 2:
            held, key = call.args
        elif call.function in ("@in", "_in_") and len(call.args) == 2:
            key, held = call.args
        else:
            if call.HasField("target"):
                self._visit(call.target)
            self._each(call.args)
            return
        if held.WhichOneof("expr_kind") == "ident_expr" and self.is_text(key):
            name, text = held.ident_expr.name, key.const_expr.string_value
            whole = (
                name in VARIABLES and VARIABLES[name] == _LIST
            )  # membership in a list reads all of it
            self._read(name, None if whole else text, guarded=call.function != "_[_]")
        else:
            self._visit(held)
            self._visit(key)

    def _require_literals(self, place: int, call: syntax_pb2.Expr.Call) -> None:
        texts = call.args[:2] if call.function == "replace" else call.args[:1]
        if all(self.is_text(text) for text in texts) and (
            call.function != "replace" or texts[0].const_expr.string_value
        ):
            return
        before = self._source[: self._positions.get(place, 0)]
        raise ExpressionInvalid(
            f"{call.function}() takes text in quotes (and searches for some) in rules",
            before.count("\n") + 1,
            len(before) - before.rfind("\n"),
        )

    @staticmethod
    def is_text(expr: syntax_pb2.Expr) -> bool:
        if expr.WhichOneof("expr_kind") != "const_expr":
            return False
        return bool(expr.const_expr.WhichOneof("constant_kind") == "string_value")


def _selected(expr: syntax_pb2.Expr) -> tuple[syntax_pb2.Expr, str] | None:
    """What is selected of what, by `.x`, `['x']`, `.?x` or `[?'x']`."""
    if expr.WhichOneof("expr_kind") == "select_expr":
        return expr.select_expr.operand, expr.select_expr.field
    call = expr.call_expr
    if expr.WhichOneof("expr_kind") != "call_expr" or call.function not in _Walk.INDEX:
        return None
    if len(call.args) != 2 or not _Walk.is_text(call.args[1]):
        return None
    return call.args[0], call.args[1].const_expr.string_value
