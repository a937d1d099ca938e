"""Handlers of many turns, for the tests that kill, drop and replay them at each one."""

import asyncio
import logging

from perdure.objects import TerminalError, VirtualObject, handler, shared

log = logging.getLogger("turns")


class Bell(VirtualObject):
    heard: list[str]

    @handler
    async def ring(self, name: str, after_seconds: float = 0.0) -> str:
        await asyncio.sleep(after_seconds)
        self.heard.append(name)
        return f"{self.key} {name}"

    @shared
    async def listen(self) -> list[str]:
        return self.heard


class Conductor(VirtualObject):
    """All that asyncio has for waiting, over calls to bells; what it saw, and in which order, is its result."""

    saw: list[str]

    @handler
    async def play(self) -> list[str]:
        await self.gather()
        await self.task_group()
        await self.failing_task_group()
        await self.timeout()
        await self.wait()
        await self.as_completed()
        return self.saw

    async def gather(self) -> None:
        first, second = self.ctx.ref(Bell, "a").ring("gather", 0.03), self.ctx.ref(Bell, "b").ring("gather", 0.01)
        self.saw += await asyncio.gather(first, second)

    async def task_group(self) -> None:
        async with asyncio.TaskGroup() as group:
            for key, delay in (("a", 0.02), ("b", 0.01), ("c", 0.0)):
                group.create_task(self.ring(key, "group", delay))

    async def failing_task_group(self) -> None:
        """The group cancels its tasks in the order of a set, and each cancelled call is a command of the turn."""
        try:
            async with asyncio.TaskGroup() as group:
                for key in "pqrstu":
                    group.create_task(self.ring(key, "never", 3_600))
                group.create_task(self.fail_after(0.01))
        except* TerminalError:
            self.saw.append("group failed")

    async def fail_after(self, delay: float) -> None:
        await self.ring("a", "fuse", delay)
        raise TerminalError("blown")

    async def timeout(self) -> None:
        try:
            async with asyncio.timeout(0.02):
                await self.ctx.ref(Bell, "slow").ring("never", 3_600)
        except TimeoutError:
            self.saw.append("timeout")
        async with asyncio.timeout(3_600):
            await self.ring("a", "in time", 0.01)

    async def wait(self) -> None:
        waiting = {asyncio.create_task(self.ring(key, "wait", delay)) for key, delay in (("c", 0.02), ("d", 0.01))}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self.saw.append(f"{len(done)} done, {len(waiting)} to come")

    async def as_completed(self) -> None:
        calls = [
            self.ctx.ref(Bell, key).ring("completed", delay) for key, delay in (("e", 0.03), ("f", 0.01), ("g", 0.02))
        ]
        for call in asyncio.as_completed(calls):
            self.saw.append(await call)

    async def ring(self, key: str, name: str, delay: float) -> None:
        self.saw.append(await self.ctx.ref(Bell, key).ring(name, delay))


class Stubborn(VirtualObject):
    """Takes every exception for something it can handle, as code that was never meant to be dropped does."""

    saw: list[str]

    @handler
    async def play(self) -> list[str]:
        try:
            await self.again_and_again()
        finally:
            log.warning("at the end")
            self.saw.append(await self.ctx.ref(Bell, "end").ring("finally", 0.01))
            self.ctx.ref(Bell, "end").ring.send("sent")
        return self.saw

    async def again_and_again(self) -> None:
        for n in range(4):
            try:
                async with Guard(self):
                    self.saw.append(await self.ctx.ref(Bell, "tried").ring(f"{n}", 0.01))
                    log.warning("rang %s", n)
            except BaseException as error:
                log.warning("caught %r", error)
                self.saw.append("caught")
                self.ctx.ref(Bell, "caught").ring.send(f"{n}")
                await self.ctx.ref(Bell, "caught").ring(f"{n}")


class Guard:
    """What it does on the way out is done with every exception."""

    def __init__(self, owner: Stubborn) -> None:
        self._owner = owner

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *error: object) -> bool:
        self._owner.saw.append("guarded")
        await self._owner.ctx.ref(Bell, "guard").ring("out")
        log.warning("guarded")
        return True
