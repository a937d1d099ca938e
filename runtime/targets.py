"""From the TARGETs of the command line to the classes that are served.

A TARGET is `module`, `module:Class`, or a path such as `examples/counter.py` (also `examples/counter.py:Counter`).
This is the only place that imports users' modules by name, so whatever they do while they are imported ends here, as
one line that says where. It knows neither the data directory nor the network: a wrong target touches nothing.
"""

import gc
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType

from perdure.objects import Service, VirtualObject, Workflow
from perdure.objects.definitions import definition_of
from perdure.objects.errors import DefinitionError
from perdure.objects.handlers import Handler

from .exits import StartRefused
from .registry import Registry

BASES: tuple[type, ...] = (VirtualObject, Service, Workflow)


class TargetError(StartRefused):
    """A TARGET can't be served; the line names it, and where in it."""


def load_targets(targets: Sequence[str]) -> Registry:
    """Import the targets and return what they serve.

    Raises TargetError: no such file, module or class, a failing import, nothing to serve, a class that can't be served,
    two classes with one name.
    """
    with _garbage_kept():
        classes = [cls for target in targets for cls in _classes(target)]
    try:
        return Registry(classes)
    except DefinitionError as error:
        raise _error(" ".join(targets), str(error)) from error


def _classes(target: str) -> list[type]:
    module_name, _, class_name = target.partition(":")
    module = _import_path(target, Path(module_name)) if _is_path(module_name) else _import_name(target, module_name)
    classes = [_named(target, module, class_name)] if class_name else _defined_in(module)
    if not classes:
        raise _error(
            target, "it defines no VirtualObject, Service or Workflow (imported classes don't count: name their module)"
        )
    for cls in classes:
        _refuse_replaced(target, cls)
    return classes


def _named(target: str, module: ModuleType, name: str) -> type:
    cls = getattr(module, name, None)
    if cls is None:
        offered = ", ".join(c.__name__ for c in _defined_in(module)) or "none"
        raise _error(target, f"module {module.__name__} has no {name} (classes that can be served: {offered})")
    if not (isinstance(cls, type) and issubclass(cls, BASES)) or cls in BASES:
        raise _error(target, f"{name} is not a class derived from VirtualObject, Service or Workflow")
    return cls


def _defined_in(module: ModuleType) -> list[type]:
    own = dict.fromkeys(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BASES) and value.__module__ == module.__name__
    )
    return [cls for cls in own if not _is_only_a_base(cls, own)]


def _is_only_a_base(cls: type, others: Iterable[type]) -> bool:
    """A class made to be derived from: abstract, generic, or without handlers while others here build on it."""
    if not any(other is not cls and issubclass(other, cls) for other in others):
        return False
    if inspect.isabstract(cls) or vars(cls).get("__parameters__"):
        return True
    try:
        return not definition_of(cls).handlers
    except DefinitionError:
        return True


# --- classes that another one of their name has replaced --------------------------------------------------------------


@contextmanager
def _garbage_kept() -> Generator[None]:
    """What a name no longer leads to is in cycles, as any class is, and stays to be found as long as this lasts."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse_replaced(target: str, cls: type) -> None:
    """Two `class Counter` in one module leave only the second: the handlers of the first would be gone, silently."""
    line = _line_of(cls)
    for other in _subclasses(*BASES):
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__) or issubclass(cls, other):
            continue
        # The same line is the same class, made again by a reload; another file is another module of that name.
        other_line = _line_of(other)
        if line is not None and other_line is not None and line[0] == other_line[0] and line[1] != other_line[1]:
            first, second = sorted((other_line[1], line[1]))
            raise _error(
                target,
                f"two classes are named {cls.__name__}, with handlers at {line[0]}:{first} and {line[0]}:{second}; "
                "only one can be served: give one another name",
            )


def _subclasses(*classes: type) -> Iterator[type]:
    for cls in classes:
        below: list[type] = cls.__subclasses__()
        yield from below
        yield from _subclasses(*below)


def _line_of(cls: type) -> tuple[str, int] | None:
    """File and line of the first function in the body of `cls`."""
    functions = [value.fn if isinstance(value, Handler) else value for value in vars(cls).values()]
    own = [inspect.unwrap(function) for function in functions if isinstance(function, FunctionType)]
    lines = [
        (function.__code__.co_filename, function.__code__.co_firstlineno)
        for function in own
        if function.__module__ == cls.__module__
    ]
    return min(lines, key=lambda line: line[1], default=None)


# --- importing ----------------------------------------------------------------------------------------------------


def _is_path(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _import_path(target: str, path: Path) -> ModuleType:
    if path.is_dir():
        raise _is_a_directory(target, path)
    if not path.is_file():
        raise _error(target, f"there is no file {path}")
    if path.suffix != ".py":
        raise _is_no_source(target, path)
    if not path.stem.isidentifier():
        raise _error(target, f"{path.name} can't be imported: its name is no Python identifier")
    _join_sys_path(path.resolve().parent)
    module = _import(target, path.stem)
    # `time.py` would be Python's own: serving another module than the one named must not happen silently.
    file: str | None = getattr(module, "__file__", None)
    if file is None or Path(file).resolve() != path.resolve():
        raise _error(target, f"another module is named {path.stem} ({file or 'built in'}); rename the file")
    return module


def _import_name(target: str, name: str) -> ModuleType:
    path = Path(name)
    if "." in name and path.is_file():
        raise _is_no_source(target, path)
    if not all(part.isidentifier() for part in name.split(".")):
        raise _is_a_directory(target, path) if name and path.is_dir() else _error(target, _FORMS)
    _join_sys_path(Path.cwd())
    module = _import(target, name)
    if getattr(module, "__file__", None) is None and path.is_dir():  # any directory is a namespace package to Python
        raise _is_a_directory(target, path)
    return module


_FORMS = "a target is module, module:Class, or a path to a .py file"


def _is_a_directory(target: str, path: Path) -> TargetError:
    return _error(target, f"{path} is a directory; {_FORMS}; a data directory is given as --data-dir {path}")


def _is_no_source(target: str, path: Path) -> TargetError:
    return _error(target, f"{path} is a file, but no Python source; {_FORMS}")


def _join_sys_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import(target: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() included: anything may be written at the top of a module
        raise _error(target, _reason(error, name)) from error


def _reason(error: BaseException, name: str) -> str:
    if isinstance(error, SystemExit):
        return f'it calls sys.exit() while it is imported{_line(error)}; put that under if __name__ == "__main__":'
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}:{error.lineno})"
    if isinstance(error, ModuleNotFoundError) and error.name and (name + ".").startswith(error.name + "."):
        return f"there is no module {error.name} in {Path.cwd()} or on Python's path"
    if isinstance(error, DefinitionError):
        return f"{error}{_line(error)}"
    return f"its import failed: {type(error).__name__}: {error}{_line(error)}"


def _line(error: BaseException) -> str:
    """Where it happened, as " (file:line)": the innermost line of the user's own code, not of what it called."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


_NOT_THE_USERS = (
    "<frozen",
    os.path.dirname(__file__),
    os.path.dirname(inspect.getfile(definition_of)),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


def _error(target: str, reason: str) -> TargetError:
    return TargetError(f"cannot serve {target}: {' '.join(reason.split())}")
