"""Assignments to `self` that cannot be meant, found in the source when a class is defined.

Neither type checker flags a misspelt `self.balence = 1`, and none can make `self` read-only in one method.
What this file does not know: what runs. Where there is no source (a REPL, generated code) only run-time checks stand.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, cast

from .errors import DefinitionError
from .handlers import is_handler
from .state import FieldDescriptor

RESERVED = ("key", "ctx")
NOT_ASSIGNED = (
    "a List or Map is a container, not a value; change what is in it: .clear(), then .extend(…) or .update(…)"
)


def check_assignments(cls: type, owner: type, fields: frozenset[str], collections: frozenset[str]) -> None:
    """Raise DefinitionError for an assignment or deletion that would fail at run time, in any method of `owner`,
    which is `cls` or a mixin of it. `collections` are the fields that are a List or a Map.
    """
    for name, member in cast("list[tuple[str, object]]", list(vars(owner).items())):
        reads_only = is_handler(member) and member.shared
        for fn in _functions(member):
            for target, deletes in _targets(fn):
                mangled = _mangled(owner, target)
                problem = (
                    NOT_ASSIGNED if mangled in collections else _problem(cls, fields, mangled, reads_only, deletes)
                )
                if problem:
                    verb = "del " if deletes else ""
                    raise DefinitionError(f"{owner.__qualname__}.{name}: `{verb}self.{target}`: {problem}")


def misspelt(cls: type, fields: frozenset[str] | set[str], name: str) -> str:
    """What to do about an assignment to `name`, which is no field of `cls`."""
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.75)
    hint = f"did you mean `{close[0]}`? " if close else ""
    return (
        f"{name!r} is no field of {cls.__name__}; {hint}declare it in the class (`{name}: int = 0`) or use a variable"
    )


def settable(cls: type, name: str, deletes: bool) -> bool:
    """Whether an attribute of the class, a property with a setter say, takes the assignment (or deletion)."""
    member: object = inspect.getattr_static(cls, name, None)
    if isinstance(member, property):
        return (member.fdel if deletes else member.fset) is not None
    return hasattr(type(member), "__delete__" if deletes else "__set__")


def _problem(cls: type, fields: frozenset[str], name: str, reads_only: bool, deletes: bool) -> str | None:
    if name in fields:
        if deletes:
            return "a field has always a value; assign its empty one"
        return "a @shared handler only reads; make it a @handler" if reads_only else None
    if name in RESERVED:
        return "read-only"
    if isinstance(inspect.getattr_static(cls, name, None), FieldDescriptor):
        return "a promise is completed by its .resolve(…) or .reject(…)"
    return None if settable(cls, name, deletes) else misspelt(cls, fields, name)


def _functions(member: object) -> Iterator[Callable[..., Any]]:
    """The functions of a class member whose first parameter is `self`."""
    if is_handler(member):
        yield inspect.unwrap(member.fn)
    elif isinstance(member, property):
        yield from (inspect.unwrap(fn) for fn in (member.fget, member.fset, member.fdel) if fn is not None)
    elif isinstance(member, FunctionType):
        yield inspect.unwrap(member)


def _targets(fn: Callable[..., Any]) -> Iterator[tuple[str, bool]]:
    """Each `x` of `self.x` that is assigned or deleted in `fn`, in any of Python's forms; and whether it is deleted."""
    node = _parsed(fn)
    parameters = node.args.posonlyargs + node.args.args if node else []
    if node and parameters:
        yield from _assigned(node, parameters[0].arg)


def _assigned(node: ast.AST, self_name: str) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and _rebinds(child.args, self_name):
            continue  # an inner function with a parameter of that name means another object
        if (
            isinstance(child, ast.Attribute)
            and not isinstance(child.ctx, ast.Load)
            and _is_name(child.value, self_name)
        ):
            yield child.attr, isinstance(child.ctx, ast.Del)
        yield from _assigned(child, self_name)


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _rebinds(arguments: ast.arguments, name: str) -> bool:
    return any(isinstance(node, ast.arg) and node.arg == name for node in ast.walk(arguments))


def _parsed(fn: Callable[..., Any]) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    except (OSError, TypeError, SyntaxError, ValueError, IndexError, RecursionError):
        return None
    node = tree.body[0] if tree.body else None
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == fn.__name__:
        return node
    return None  # the file has changed since, or the name was made up: not this function's source


def _mangled(cls: type, name: str) -> str:
    if name.startswith("__") and not name.endswith("__"):
        return f"_{cls.__name__.lstrip('_')}{name}"
    return name
