"""The classes a process serves, by name."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.objects.definitions import HandlerDefinition, ServiceDefinition, definition_of
from perdure.objects.errors import DefinitionError


class Registry:
    """`services`: definition by name.  Raises DefinitionError for two classes of one name, and for an unfit class."""

    def __init__(self, classes: Iterable[type]) -> None:
        self.services: dict[str, ServiceDefinition] = {}
        for cls in classes:
            definition = definition_of(cls)
            known = self.services.get(definition.name)
            if known is not None and known.cls is not cls:
                raise DefinitionError(
                    f"two classes are named {definition.name}: {_where(known.cls)} and {_where(cls)}; "
                    'give one another name: class X(VirtualObject, name="…")'
                )
            if not definition.handlers:
                raise DefinitionError(f"{_where(cls)} has no handlers: decorate its methods with @handler or @shared")
            self.services[definition.name] = definition

    def handler(self, service: str, handler: str) -> tuple[ServiceDefinition, HandlerDefinition] | None:
        definition = self.services.get(service)
        found = None if definition is None else definition.handlers.get(handler)
        return None if definition is None or found is None else (definition, found)


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
