"""Generate mutants: loaded functions whose source is changed in one operator, number or call.

The mutation operators are the operators of cosmic-ray and `RemoveMethodCall`. The installed source is read and changed
in memory. The name of a mutant consists of module, function, mutation operator, number and a hash of the changed line.
"""

import __future__

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow")
BITS = ("BitOr", "BitAnd", "BitXor")
ORDER = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
IDENTITY = ("Is", "IsNot")
"""Groups of Python operators. Replacements stay within a group, because others, such as a shift of floats, raise."""
OTHERS = (
    "AddNot", "NumberReplacer", "RemoveDecorator", "ReplaceAndWithOr", "ReplaceFalseWithTrue", "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse", "ReplaceUnaryOperator_Delete_Invert", "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub", "ZeroIterationForLoop",
)  # fmt: skip
"""Mutation operators of cosmic-ray, other than those that replace one Python operator by another."""
MODULE_NAMES = ("torch", "F", "math", "functional", "super", "self")
"""Names that are no tensors: a call such as `torch.f(x)` is not changed to `torch`."""


@dataclass(frozen=True)
class Mutant:
    """One change of the source of one function.

    Attributes:
        module: the function's module.
        function: name of the function, after its class and a dot if it has one.
        operator: name of the mutation operator, the kind of change.
        occurrence: index of the changed position among all positions in the function that the operator can change, from
            0.
        line: number of the changed line in the file, from 1.
        digest: hash of the changed lines, before and after.
        text: changed source of the function, with its decorators.
    """

    module: str
    function: str
    operator: str
    occurrence: int
    line: int
    digest: str
    text: str

    @property
    def id(self) -> str:
        """Name of the mutant, such as "boxes.ciou NumberReplacer 3 1a2b3c4d", stable if other code changes."""
        module = self.module.rpartition(".")[2]
        return f"{module}.{self.function} {self.operator} {self.occurrence} {self.digest}"


@dataclass(frozen=True)
class Place:
    """A function of a loaded module.

    Attributes:
        module: the module that defines the function.
        function: name of the function; of a method, `Class.method`.
    """

    module: ModuleType
    function: str

    @property
    def owner(self) -> Any:
        """The module or class in which the function is defined."""
        head, dot, _ = self.function.rpartition(".")
        return getattr(self.module, head) if dot else self.module

    @property
    def name(self) -> str:
        """Name of the function without its class."""
        return self.function.rpartition(".")[2]

    @property
    def live(self) -> Any:
        """The function object that callers use, without its decorators."""
        return undecorated(vars(self.owner)[self.name])

    def source(self) -> tuple[str, int]:
        """Return the source of the function and the number of its first line, decorators included."""
        lines, first = inspect.getsourcelines(self.live)
        return "".join(lines), first

    def built(self, text: str, first: int) -> Any:
        """Return the decorated function that a changed source defines, compiled in the module's namespace.

        Raises:
            SyntaxError: the changed source is not valid Python.
        """
        flags = __future__.annotations.compiler_flag
        names = dict(vars(self.module))
        if self.owner is self.module:
            code = compile("\n" * (first - 1) + text, str(self.module.__file__), "exec", flags, True)
            exec(code, names)  # noqa: S102 (the installed source, with one change)
            return names[self.name]
        padded = "\n" * max(first - 2, 0) + "class Holder:\n" + text
        exec(compile(padded, str(self.module.__file__), "exec", flags, True), names)  # noqa: S102
        return vars(names["Holder"])[self.name]

    def put(self, text: str, first: int) -> None:
        """Replace the code of the function object in use, so that all its callers run the changed code."""
        built = self.built(text, first)
        live = self.live
        changed = undecorated(built)
        live.__code__ = changed.__code__
        live.__defaults__, live.__kwdefaults__ = changed.__defaults__, changed.__kwdefaults__
        if built is changed and vars(self.owner)[self.name] is not live:
            setattr(self.owner, self.name, live)  # the change removed the decorator


def undecorated(function: Any) -> FunctionType:
    """Return the function inside a static method, a property or decorators that set `__wrapped__`."""
    function = getattr(function, "__func__", getattr(function, "fget", function))
    inner = inspect.unwrap(function)
    assert isinstance(inner, FunctionType)
    return inner


def places(module: ModuleType, names: Sequence[str]) -> Iterator[Place]:
    """Yield the named functions of a module, and the functions that its named classes define themselves."""
    for name in names:
        value = vars(module).get(name)
        if isinstance(value, type):
            for method, content in vars(value).items():
                if getattr(
                    undecorated_if_any(content), "__module__", None
                ) == module.__name__ and is_from_file(content):
                    yield Place(module, f"{name}.{method}")
        elif value is not None:
            yield Place(module, name)


def undecorated_if_any(value: Any) -> FunctionType | None:
    """Return the function inside a value, without its decorators, or None if the value is not a function."""
    inner = getattr(value, "__func__", getattr(value, "fget", value))
    return inspect.unwrap(inner) if callable(inner) and not isinstance(inner, type) else None


def is_from_file(value: Any) -> bool:
    """Return True if the source of a function is in a file, unlike the source of methods that dataclasses generate."""
    function = undecorated_if_any(value)
    return isinstance(function, FunctionType) and not function.__code__.co_filename.startswith("<")


def operators() -> dict[str, Any]:
    """Return every mutation operator by name.

    Raises:
        ModuleNotFoundError: cosmic-ray is not installed.
    """
    from cosmic_ray.plugins import get_operator

    names = list(OTHERS)
    kinds: tuple[tuple[str, ...], ...] = (ARITHMETIC, BITS)
    for group in kinds:
        names += [f"ReplaceBinaryOperator_{old}_{new}" for old in group for new in group if old != new]
    kinds = (ORDER, IDENTITY)
    for group in kinds:
        names += [f"ReplaceComparisonOperator_{old}_{new}" for old in group for new in group if old != new]
    found = {name: get_operator(f"core/{name}")() for name in names}
    return found | {"RemoveMethodCall": RemoveMethodCall()}


class RemoveMethodCall:
    """Mutation operator that turns `x.f(...)` into `x`: a forgotten clamp, detach or sum. It extends cosmic-ray."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield start and end of every method call in a node such as `x.f(...).g(...)`."""
        for index in self._calls(node):
            yield node.children[index].start_pos, node.children[index + 1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Return the node without its method call number `index`."""
        at = list(self._calls(node))[index]
        del node.children[at : at + 2]
        return node

    @staticmethod
    def _calls(node: Any) -> Iterator[int]:
        if node.type not in ("atom_expr", "power"):
            return
        first = getattr(node.children[0], "value", "")
        for index, (part, after) in enumerate(zip(node.children, node.children[1:], strict=False)):
            opens = [getattr(trailer, "children", [trailer])[0] for trailer in (part, after)]
            called = part.type == after.type == "trailer" and [mark.value for mark in opens] == [".", "("]
            if called and not (index == 1 and first in MODULE_NAMES):
                yield index


def mutants_of(place: Place, reached: Iterable[int | str] | None = None) -> list[Mutant]:
    """Return the mutants of a function whose compiled code differs from the original's and from each other's.

    Args:
        place: the function.
        reached: lines that run, and parameters whose default is used: only these are mutated. None: all are mutated.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    text, first = place.source()
    used = None if reached is None else frozenset(reached)
    runs = None if used is None else _statements_that_run(text, first, used)
    unused = _unused_defaults(text, used) if used is not None else []
    seen = {fingerprint(place.built(text, first))}
    nodes = list(ast_nodes(get_ast(text)))
    found = []
    for name, operator in operators().items():
        spots = [spot for node in nodes for spot in operator.mutation_positions(node)]
        for number, ((row, column), _) in enumerate(spots):
            line = first + row - 1
            if runs is not None and line not in runs:
                continue
            if any(start <= (row, column) < end for start, end in unused):
                continue
            changed = mutate_code(text, operator, number)
            try:
                print_ = fingerprint(place.built(changed, first))
            except Exception:  # noqa: S112 (not valid Python, or its definition fails: such a fault is never shipped)
                continue
            if print_ in seen:
                continue
            seen.add(print_)
            digest = _digest(text, changed)
            found.append(Mutant(place.module.__name__, place.function, name, number, line, digest, changed))
    return found


def _digest(before: str, after: str) -> str:
    """Return a hash of the lines that differ between two sources, ignoring indentation."""
    old, new = before.splitlines(), after.splitlines()
    lines = [f"{a.strip()}\0{b.strip()}" for a, b in zip(old, new, strict=False) if a != b]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def _unused_defaults(
    text: str, reached: frozenset[int | str]
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return start and end (row and column) of the default values of the parameters not in `reached`."""
    function = ast.parse(textwrap.dedent(text)).body[0]
    assert isinstance(function, ast.FunctionDef)
    indent = len(text) - len(text.lstrip())
    positional = [*function.args.posonlyargs, *function.args.args]
    of_positional = zip(reversed(positional), reversed(function.args.defaults), strict=False)
    of_named = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return [
        (
            (default.lineno, default.col_offset + indent),
            (default.end_lineno or 0, (default.end_col_offset or 0) + indent),
        )
        for parameter, default in (*of_positional, *of_named)
        if default is not None and parameter.arg not in reached
    ]


def _statements_that_run(text: str, first: int, reached: frozenset[int | str]) -> set[int]:
    """Return the lines of statements with a reached line, and of statements that run when the function is defined."""
    (function,) = ast.parse(textwrap.dedent(text)).body
    assert isinstance(function, ast.FunctionDef)
    runs = set(range(first, function.body[0].lineno + first - 1)) if reached else set()
    for statement in ast.walk(function):
        if not isinstance(statement, ast.stmt) or statement is function:
            continue
        lines = _own_lines(statement, first)
        if lines & reached:
            runs |= lines
    return runs


def statement_at(text: str, first: int, line: int) -> set[int]:
    """Return the lines of the innermost statement around a line of the file, without nested statements.

    The result is empty for a line that is evaluated when the function is defined.
    """
    (function,) = ast.parse(textwrap.dedent(text)).body
    found: set[int] = set()
    for statement in ast.walk(function):  # outer statements come first
        if not isinstance(statement, ast.stmt) or statement is function:
            continue
        lines = _own_lines(statement, first)
        if line in lines:
            found = lines
    return found


def _own_lines(statement: ast.stmt, first: int) -> set[int]:
    if isinstance(statement, ast.Match):
        # The subject and every pattern, because patterns are tried until one matches.
        parts: list[ast.expr | ast.pattern] = [statement.subject, *(case.pattern for case in statement.cases)]
        rows = [range(part.lineno, int(part.end_lineno or part.lineno) + 1) for part in parts]
        return {row + first - 1 for lines in rows for row in lines}
    inner = [part.lineno for part in getattr(statement, "body", []) if isinstance(part, ast.stmt)]
    last = min(inner) - 1 if inner else int(statement.end_lineno or statement.lineno)
    return {row + first - 1 for row in range(statement.lineno, last + 1)}


def fingerprint(built: Any) -> str:
    """Return the compiled code and the defaults of a function as text without line numbers, for comparison."""
    function = undecorated(built)
    wrapped = "plain" if function is built else "decorated"
    return f"{wrapped} {function.__defaults__!r} {function.__kwdefaults__!r} {_code(function.__code__)}"


def _code(code: CodeType) -> str:
    constants = [_code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return f"{code.co_code!r} {constants} {code.co_names} {code.co_varnames}"
