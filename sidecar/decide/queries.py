"""JSONPath (RFC 9535): the one place that knows the JSONPath library, and the one for I-Regexp.

A query that could silently select nothing is refused where it is written, since what a redaction
does not select is seen: patterns must be literals, valid and free of anchors, integers exact.

Filters cost what they read: the values that are queried (`spans`) count it, and regular expressions
are RE2's, whose time is linear in what a stranger sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import re2
from iregexp_check import check
from jsonpath_rfc9535 import JSONPathEnvironment, JSONPathNode
from jsonpath_rfc9535.exceptions import JSONPathError
from jsonpath_rfc9535.filter_expressions import (
    ComparisonExpression,
    Expression,
    FilterExpression,
    FilterExpressionLiteral,
    FilterQuery,
    FunctionExtension,
    LogicalExpression,
    PrefixExpression,
    RelativeFilterQuery,
)
from jsonpath_rfc9535.function_extensions import ExpressionType, FilterFunction
from jsonpath_rfc9535.query import JSONPathQuery
from jsonpath_rfc9535.selectors import FilterSelector

from sidecar.decide.spans import Budget
from sidecar.errors import Uninspectable

LONGEST: Final = 1024  # characters of a query
MAX_NESTING: Final = 32  # of expressions in each other; `a && b && c` nests twice
MAX_EXACT: Final = 2**53 - 1  # RFC 9535 section 2.1; the library reads larger ones by way of floats

_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False
_TAKES_PATTERN: Final = ("match", "search")


class _Match(FilterFunction):
    """RFC 9535 sections 2.4.6 and 2.4.7. The pattern was checked when the query was read."""

    arg_types = [ExpressionType.VALUE, ExpressionType.VALUE]  # noqa: RUF012  (the library's form)
    return_type = ExpressionType.LOGICAL

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def __call__(self, value: object, pattern: object) -> bool:
        if not isinstance(value, str) or not isinstance(pattern, str):
            return False
        compiled = _compiled(pattern)
        found = compiled.fullmatch(value) if self._whole else compiled.search(value)
        return found is not None


class _Environment(JSONPathEnvironment):
    def setup_function_extensions(self) -> None:
        super().setup_function_extensions()
        self.function_extensions["match"] = _Match(whole=True)
        self.function_extensions["search"] = _Match(whole=False)


_ENVIRONMENT: Final = _Environment()


class Query:
    """A query as it was written, ready to be asked."""

    __slots__ = ("_query", "_weight", "source")

    def __init__(self, source: str, query: JSONPathQuery, weight: int) -> None:
        self.source = source
        self._query = query
        self._weight = weight

    def select(self, root: Any, budget: Budget) -> Iterator[JSONPathNode]:
        """The nodes that it selects, some perhaps more than once. Raises Uninspectable."""
        budget.weight = self._weight
        try:
            yield from self._query.finditer(root)
        except (JSONPathError, RecursionError):
            raise Uninspectable("too_complex") from None


def parse_query(source: str) -> Query:
    """Raises ValueError, which says what is wrong."""
    if len(source) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    try:
        query = _ENVIRONMENT.compile(source)
    except JSONPathError as error:
        raise ValueError(str(error.args[0]) if error.args else "not a JSONPath query") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except OverflowError:
        raise ValueError("a number beyond what JSON can exchange") from None
    return Query(source, query, max(1, _check_query(query, 0)))


# What is checked is also weighed: how many selectors and expressions a value may have to pass.


def _check_query(query: JSONPathQuery, depth: int) -> int:
    weight = 0
    for segment in query.segments:
        for selector in segment.selectors:
            weight += 1
            if isinstance(selector, FilterSelector):
                weight += _check_logical(selector.expression, depth + 1)
    return weight


def _check_logical(expression: Expression, depth: int) -> int:
    """Of an expression that is asked for true or false."""
    if isinstance(expression, RelativeFilterQuery) and expression.query.empty():
        # The library asks whether the value is true, the RFC whether there is one.
        raise ValueError("@ alone is true of every value; write [*] instead of [?@]")
    return _check(expression, depth)


def _check(expression: Expression, depth: int) -> int:
    if depth > MAX_NESTING:
        raise ValueError("nested too deeply")
    if isinstance(expression, FilterExpression):
        return _check_logical(expression.expression, depth)
    if isinstance(expression, PrefixExpression):
        return 1 + _check_logical(expression.right, depth + 1)
    if isinstance(expression, LogicalExpression):
        both = (expression.left, expression.right)
        return 1 + sum(_check_logical(each, depth + 1) for each in both)
    if isinstance(expression, ComparisonExpression):
        return 1 + sum(_check(each, depth + 1) for each in (expression.left, expression.right))
    if isinstance(expression, FilterQuery):
        return 1 + _check_query(expression.query, depth + 1)
    if isinstance(expression, FunctionExtension):
        if expression.name in _TAKES_PATTERN:
            _check_pattern(expression)
        return 1 + sum(_check(argument, depth + 1) for argument in expression.args)
    if isinstance(expression, FilterExpressionLiteral):
        value = expression.value
        if isinstance(value, int) and abs(value) > MAX_EXACT:
            raise ValueError("an integer beyond 2**53 - 1")
        return 0
    raise ValueError("an expression that is not known")  # a later version of the library


def _check_pattern(function: FunctionExtension) -> None:
    """RFC 9535 has a bad pattern select nothing, which here would show what was to be cut."""
    pattern = function.args[1]
    if not isinstance(pattern, FilterExpressionLiteral) or not isinstance(pattern.value, str):
        raise ValueError(f"the pattern of {function.name}() is no string literal")
    if not check(pattern.value):
        raise ValueError(f"{pattern.value!r} is not an I-Regexp (RFC 9485)")
    try:
        _compiled(pattern.value)
    except (re2.error, UnicodeEncodeError):
        raise ValueError(f"{pattern.value!r} is not supported") from None


_patterns: Final[dict[str, Any]] = {}  # those of queries, which documents bound
_KEPT: Final = 1024


def _compiled(pattern: str) -> Any:
    found = _patterns.get(pattern)
    if found is None:
        if len(_patterns) >= _KEPT:
            _patterns.clear()
        found = _patterns[pattern] = re2.compile(_as_re2(pattern), options=_OPTIONS)
    return found


def _as_re2(pattern: str) -> str:
    """RFC 9485 section 5.5. Raises ValueError for what other dialects take for an anchor."""
    parts: list[str] = []
    escaped = in_class = False
    for char in pattern:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == ".":
            char = "[^\\n\\r]"
        elif char in "^$":
            plain = "[$]" if char == "$" else "\\^"
            raise ValueError(
                f"{char} is no anchor in an I-Regexp: match() is about the whole text; "
                f"for the character itself write {plain}"
            )
        parts.append(char)
    return "".join(parts)
