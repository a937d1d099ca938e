"""Annotations as types: strings resolved, the type variables of generic bases replaced.

What this file does not know: what the annotations are for. A NameError means "not yet": the name may be defined later.
"""

from __future__ import annotations

import ast
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar, get_args, get_origin

from .errors import DefinitionError

Variables = Mapping[Any, Any]
"""What each type variable of a class stands for in one of its subclasses."""


def shown(type_: Any) -> str:
    """A type as people write it."""
    return type_.__name__ if isinstance(type_, type) and not get_args(type_) else str(type_).replace("typing.", "")


def own_annotations(cls: type) -> dict[str, Any]:
    """The annotations written in this class, not its bases; possibly strings."""
    return dict(inspect.get_annotations(cls))


def names_class_attribute(annotation: object) -> bool:
    """Whether it is ClassVar or Final, which are no state. Works on strings, since they cannot be resolved yet."""
    return _outer_name(annotation) in ("ClassVar", "Final")


def names_promise(annotation: object) -> bool:
    return _outer_name(annotation) == "Promise"


def outer_type(annotation: object, owner: type, local: Mapping[str, Any]) -> object:
    """`List` of `List[Line]`, even if `Line` is defined later; None if `List` is too."""
    if not isinstance(annotation, str):
        return get_origin(annotation) or annotation
    try:
        node = ast.parse(annotation.strip(), mode="eval").body
        outer = ast.unparse(node.value if isinstance(node, ast.Subscript) else node)
        found = resolve({"outer": outer}, owner, None, local)["outer"]
    except (SyntaxError, NameError, AttributeError, TypeError):
        return None
    return get_origin(found) or found


def _outer_name(annotation: object) -> str:
    if not isinstance(annotation, str):
        outer = get_origin(annotation) or annotation
        return getattr(outer, "__name__", None) or getattr(outer, "_name", None) or ""
    try:
        node: ast.expr = ast.parse(annotation.strip(), mode="eval").body
    except SyntaxError:
        return ""
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def resolve(
    annotations: Mapping[str, Any], owner: type, fn: Callable[..., Any] | None, local: Mapping[str, Any]
) -> Any:
    """The annotations as types; `owner` is the class they stand in, `local` the names around it."""
    spaces: dict[str, Any] = {**local, **_own_types(owner), **_parameters_of(owner), **_parameters_of(fn)}
    # A wrapper made by functools.wraps has its own globals; the annotations are those of the function it wraps.
    module = sys.modules.get(owner.__module__)
    globals_ = getattr(fn, "__globals__", None) if fn else getattr(module, "__dict__", {})
    holder = SimpleNamespace(__annotations__=dict(annotations))
    return typing.get_type_hints(holder, globalns=globals_ or {}, localns=spaces, include_extras=True)


def _own_types(owner: type) -> dict[str, Any]:
    """Classes nested in the owner. Only those: a handler called `list` must not hide the type."""
    return {name: value for name, value in vars(owner).items() if isinstance(value, type)}


def _parameters_of(definition: object) -> dict[str, Any]:
    return {p.__name__: p for p in getattr(definition, "__type_params__", ())}


def substitute(hint: Any, variables: Variables) -> Any:
    """`hint` with its type variables replaced; those that stand for nothing stay."""
    if isinstance(hint, TypeVar):
        return variables.get(hint, hint)
    parameters: tuple[Any, ...] = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    return hint[tuple(variables.get(p, p) for p in parameters)]


def open_variables(hint: Any) -> tuple[Any, ...]:
    """The type variables that `hint` still contains."""
    if isinstance(hint, TypeVar):
        return (hint,)
    return () if isinstance(hint, type) else tuple(getattr(hint, "__parameters__", ()))


def variables_of(cls: type, arguments: tuple[Any, ...] = ()) -> dict[type, dict[Any, Any]]:
    """For each generic base of `cls`: what its type variables stand for. `arguments` are those of `cls` itself."""
    found: dict[type, dict[Any, Any]] = {}
    _gather(cls, dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False)), found)
    return found


def _gather(cls: type, variables: dict[Any, Any], found: dict[type, dict[Any, Any]]) -> None:
    found.setdefault(cls, {}).update(variables)
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type) and origin is not object:
            given = (substitute(argument, variables) for argument in get_args(base))
            _gather(origin, dict(zip(getattr(origin, "__parameters__", ()), given, strict=False)), found)


def enclosing_locals(cls: type) -> Mapping[str, Any]:
    """The local names of the function that is defining `cls`, so that types defined there can be named in strings."""
    enclosing, _, _ = cls.__qualname__.rpartition(".<locals>.")
    frame = inspect.currentframe()
    while enclosing and frame is not None:
        if frame.f_code.co_qualname == enclosing:
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}


def unresolved(cls: type, error: NameError) -> DefinitionError:
    return DefinitionError(
        f"{cls.__qualname__}: an annotation names {error.name!r}, which is not defined; define it at module level"
    )
