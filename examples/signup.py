r"""A signup that waits for two people: for the newcomer to click a link, and for somebody to approve, who is reminded.

    perdure serve examples/signup.py
    curl localhost:8080/Signup/ann/run/send --json '"ann@example.com"'
    curl localhost:8080/Signup/ann/status
    curl localhost:8080/restate/awakeables/$LINK/resolve --json '"clicked in Oslo"'
    curl localhost:8080/Signup/ann/decide --json '{"verdict": "approved", "by": "bob"}'
    curl localhost:8080/Signup/ann/run --json '"ann@example.com"'
    curl localhost:8080/Signup/ann/status

LINK is the `link` that the first status shows; a real letter would have it in its text.  The second `run` starts
nothing: a workflow runs once, and who asks again gets the result of that one run.
"""

import asyncio
from datetime import timedelta
from typing import Literal

from msgspec import Struct

from perdure.objects import Promise, TerminalError, Workflow, current_step, handler, shared

APPROVERS = "approvers@example.com"
CLICK_WITHIN = timedelta(days=2)
REMIND_EVERY = timedelta(days=3)
REMINDERS_MAX = 3


class Verdict(Struct, frozen=True):
    verdict: Literal["approved", "refused"]
    by: str


class Status(Struct, frozen=True):
    stage: Literal["mailing", "unconfirmed", "waiting for approval", "member", "refused", "expired"]
    link: str
    reminders: int


class Welcome(Struct, frozen=True):
    member: bool
    decided_by: str
    confirmed: str


class Signup(Workflow):
    """One newcomer; the key is the name they want."""

    verdict: Promise[Verdict]
    status_now: Status = Status("mailing", "", 0)

    @handler
    async def run(self, email: str) -> Welcome:
        confirmed = await self._confirm(email)
        decision = await self._approve(email)
        if decision.verdict == "refused":
            self._now("refused")
            await self.ctx.run(mail, email, "We are sorry.")
            return Welcome(False, decision.by, confirmed)
        self._now("member")
        # Two letters at once; neither is sent twice, whatever happens.
        await asyncio.gather(
            self.ctx.run(mail, email, f"Welcome, {self.key}!"),
            self.ctx.run(mail, APPROVERS, f"{self.key} is a member now."),
        )
        return Welcome(True, decision.by, confirmed)

    async def _confirm(self, email: str) -> str:
        """An awakeable: whoever has its id may complete it, here the newcomer by the link in the letter."""
        clicked = self.ctx.awakeable(str)
        await self.ctx.run(mail, email, f"Please confirm: POST /restate/awakeables/{clicked.id}/resolve")
        self._now("unconfirmed", link=clicked.id)
        try:
            async with asyncio.timeout(CLICK_WITHIN.total_seconds()):
                return await clicked
        except TimeoutError:
            self._now("expired")
            raise TerminalError(f"{email} was never confirmed", status=408) from None

    async def _approve(self, email: str) -> Verdict:
        """A promise: given once, by another handler of this workflow, and perhaps before anybody waits for it."""
        self._now("waiting for approval")
        await self.ctx.run(mail, APPROVERS, f"{email} wants to be {self.key}: POST /Signup/{self.key}/decide")
        for _ in range(REMINDERS_MAX):
            try:
                async with asyncio.timeout(REMIND_EVERY.total_seconds()):
                    return await self.verdict
            except TimeoutError:
                self._now("waiting for approval", reminders=self.status_now.reminders + 1)
                await self.ctx.run(mail, APPROVERS, f"{email} is still waiting.")
        return await self.verdict  # whoever has been asked that often is left in peace

    def _now(
        self,
        stage: Literal["unconfirmed", "waiting for approval", "member", "refused", "expired"],
        link: str = "",
        reminders: int | None = None,
    ) -> None:
        self.status_now = Status(stage, link, self.status_now.reminders if reminders is None else reminders)

    @shared
    async def decide(self, verdict: Literal["approved", "refused"], by: str) -> None:
        """The first decision counts; another one is refused with 409."""
        self.verdict.resolve(Verdict(verdict, by))

    @shared
    async def status(self) -> Status:
        return self.status_now


# --- the outside world: a stub ----------------------------------------------------------------------------------------

LETTERS: list[tuple[str, str]] = []


async def mail(to: str, text: str) -> None:
    LETTERS.append((to, text))
    current_step().log.info("letter sent", to=to, text=text)
