"""A bug, served beside the other objects to see that the storm finds it: idempotency keys are forgotten."""

from perdure.objects import VirtualObject, handler
from perdure.runtime.kernel import Kernel


def _find_nothing(self: Kernel, service: str, key: str, handler: str, idempotency_key: str) -> None: ...


class ForgottenKeys(VirtualObject):
    """A TARGET has to serve something."""

    @handler
    async def nothing(self) -> None: ...


setattr(Kernel, "find_by_idempotency_key", _find_nothing)  # noqa: B010  # an assignment is refused by type checkers
