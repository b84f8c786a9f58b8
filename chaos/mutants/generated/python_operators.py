"""Find the changes that generic operators can make to the Python code of a module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper

from chaos.mutants.generated import sql_operators
from chaos.mutants.generated.change import SourceChange

_COMPARISONS: Mapping[type[cst.BaseCompOp], str] = MappingProxyType(
    {
        cst.LessThan: "<=",
        cst.LessThanEqual: "<",
        cst.GreaterThan: ">=",
        cst.GreaterThanEqual: ">",
        cst.Equal: "!=",
        cst.NotEqual: "==",
        cst.Is: "is not",
        cst.IsNot: "is",
        cst.In: "not in",
        cst.NotIn: "in",
    }
)
_ARITHMETIC: Mapping[type[cst.CSTNode], str] = MappingProxyType(
    {cst.Add: "-", cst.Subtract: "+", cst.AddAssign: "-=", cst.SubtractAssign: "+="}
)
_OPPOSITES = MappingProxyType({"min": "max", "max": "min", "any": "all", "all": "any"})
_CLOCK = re.compile(r"(?:\.time|\.monotonic|\.clock)\(\)$")


def changes(source: bytes) -> Iterator[SourceChange]:
    """Yield all changes to the code and the SQL of a module, in the order of the file."""
    finder = _Finder(source)
    MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True).visit(finder)
    yield from sorted(finder.found)


class _Finder(cst.CSTVisitor):
    """Collects the changes of one module."""

    METADATA_DEPENDENCIES = (ByteSpanPositionProvider,)

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self._source = source
        self._scope: list[str] = []
        self.found: list[SourceChange] = []

    # ---- where it is, and what is left out

    def visit_ClassDef(self, node: cst.ClassDef) -> None:  # noqa: N802 - libcst's name
        self._scope.append(node.name.value)

    def leave_ClassDef(self, original_node: cst.ClassDef) -> None:  # noqa: N802
        self._scope.pop()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:  # noqa: N802
        self._scope.append(node.name.value)

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:  # noqa: N802
        self._scope.pop()

    def visit_Annotation(self, node: cst.Annotation) -> bool:  # noqa: N802
        return False

    def visit_Decorator(self, node: cst.Decorator) -> bool:  # noqa: N802
        return not self._text(node).startswith("@dataclass")

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:  # noqa: N802
        return False

    def visit_Assert(self, node: cst.Assert) -> bool:  # noqa: N802
        return False

    # ---- expressions

    def visit_ComparisonTarget(self, node: cst.ComparisonTarget) -> None:  # noqa: N802
        new = _COMPARISONS.get(type(node.operator))
        if new is not None:
            self._replace(node.operator, new, "comparison")

    def visit_BooleanOperation(self, node: cst.BooleanOperation) -> None:  # noqa: N802
        new = "or" if isinstance(node.operator, cst.And) else "and"
        self._replace(node.operator, new, "boolean")

    def visit_UnaryOperation(self, node: cst.UnaryOperation) -> None:  # noqa: N802
        if isinstance(node.operator, cst.Not):
            self._replace(node, self._whole(node.expression), "negation")

    def visit_BinaryOperation(self, node: cst.BinaryOperation) -> None:  # noqa: N802
        self._arithmetic(node.operator)

    def visit_AugAssign(self, node: cst.AugAssign) -> None:  # noqa: N802
        self._arithmetic(node.operator)
        self._replace(node, "pass", "statement")

    def visit_Integer(self, node: cst.Integer) -> None:  # noqa: N802
        self._replace(node, str(node.evaluated_value + 1), "off by one")
        if node.evaluated_value > 0:
            self._replace(node, str(node.evaluated_value - 1), "off by one")

    def visit_Float(self, node: cst.Float) -> None:  # noqa: N802
        self._replace(node, str(node.evaluated_value * 10 or 1.0), "constant")

    def visit_Name(self, node: cst.Name) -> None:  # noqa: N802
        if node.value in ("True", "False"):
            self._replace(node, "False" if node.value == "True" else "True", "constant")

    def visit_Call(self, node: cst.Call) -> None:  # noqa: N802
        self._swapped(node.args)
        called = node.func.value if isinstance(node.func, cst.Name) else ""
        if called in _OPPOSITES:
            self._replace(node.func, _OPPOSITES[called], "opposite")
        elif called in ("sorted", "reversed") and node.args:
            self._replace(node, f"list({self._whole(node.args[0].value)})", "order")
        if _CLOCK.search(self._text(node)):
            self._replace(node, f"({self._text(node)} - 1.0)", "now")

    def _swapped(self, args: Sequence[cst.Arg]) -> None:
        """Swap neighbouring values, whether they are passed by position or by name."""
        for first, second in pairwise(args):
            alike = bool(first.keyword) == bool(second.keyword)
            # Parentheses are no part of the span of an expression.
            plain = not (first.star or second.star or first.value.lpar or second.value.lpar)
            if not (alike and plain):
                continue
            texts = self._text(first.value), self._text(second.value)
            if texts[0] != texts[1]:
                start, end = self._span(first.value)[0], self._span(second.value)[1]
                between = self._source[self._span(first.value)[1] : self._span(second.value)[0]]
                new = texts[1] + between.decode() + texts[0]
                self._add(start, end, new, "arguments")

    def _arithmetic(self, operator: cst.CSTNode) -> None:
        new = _ARITHMETIC.get(type(operator))
        if new is not None:
            self._replace(operator, new, "arithmetic")

    # ---- conditions and statements

    def visit_If(self, node: cst.If) -> bool:  # noqa: N802
        if self._text(node.test) == "TYPE_CHECKING":
            return False
        self._negated(node.test)
        return True

    def visit_IfExp(self, node: cst.IfExp) -> None:  # noqa: N802
        self._negated(node.test)

    def visit_While(self, node: cst.While) -> None:  # noqa: N802
        if self._text(node.test) != "True":
            self._negated(node.test)

    def visit_CompIf(self, node: cst.CompIf) -> None:  # noqa: N802
        self._negated(node.test)

    def visit_Expr(self, node: cst.Expr) -> bool:  # noqa: N802
        if isinstance(node.value, cst.SimpleString | cst.ConcatenatedString):
            return False  # a docstring
        awaited = isinstance(node.value, cst.Await)
        self._replace(node, "pass", "await" if awaited else "statement")
        return True

    def visit_Assign(self, node: cst.Assign) -> None:  # noqa: N802
        self._scope.append(self._text(node.targets[0].target) if not self._scope else "")
        # Without a local name the code would only fail.
        if all(isinstance(each.target, cst.Attribute | cst.Subscript) for each in node.targets):
            self._replace(node, "pass", "statement")

    def leave_Assign(self, original_node: cst.Assign) -> None:  # noqa: N802
        self._scope.pop()

    def visit_Raise(self, node: cst.Raise) -> None:  # noqa: N802
        self._replace(node, "pass", "statement")

    def visit_Break(self, node: cst.Break) -> None:  # noqa: N802
        self._replace(node, "continue", "statement")

    def visit_Continue(self, node: cst.Continue) -> None:  # noqa: N802
        self._replace(node, "break", "statement")

    def _negated(self, test: cst.BaseExpression) -> None:
        text = self._text(test)
        if not isinstance(test, cst.UnaryOperation):
            self._replace(test, f"(not ({text}))", "negation")

    # ---- SQL

    def visit_SimpleString(self, node: cst.SimpleString) -> None:  # noqa: N802
        self._sql(node)

    def visit_FormattedString(self, node: cst.FormattedString) -> None:  # noqa: N802
        self._sql(node)

    def _sql(self, node: cst.SimpleString | cst.FormattedString) -> None:
        start, _ = self._span(node)
        text = self._text(node)
        if isinstance(node, cst.FormattedString):
            opening, closing = len(node.start), len(node.end)
        else:
            opening, closing = len(node.prefix + node.quote), len(node.quote)
        formatted = isinstance(node, cst.FormattedString)
        for found in sql_operators.changes(text[opening:-closing], formatted=formatted):
            before = len(text[: opening + found.start].encode())
            old = len(text[opening + found.start : opening + found.end].encode())
            self._add(start + before, start + before + old, found.new, found.operator)

    # ---- helpers

    def _span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return start and end in bytes, without parentheses around an expression."""
        span = self.get_metadata(ByteSpanPositionProvider, node)
        return span.start, span.start + span.length

    def _text(self, node: cst.CSTNode) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _whole(self, node: cst.BaseExpression) -> str:
        """Return the text of an expression that stays one wherever it is put."""
        return f"({self._text(node)})" if node.lpar else self._text(node)

    def _replace(self, node: cst.CSTNode, new: str, operator: str) -> None:
        self._add(*self._span(node), new, operator)

    def _add(self, start: int, end: int, new: str, operator: str) -> None:
        self.found.append(
            SourceChange(start, end, new, operator, ".".join(filter(None, self._scope)))
        )
