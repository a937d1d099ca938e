"""Transfers between accounts; the sum never changes.

perdure serve examples/bank.py
curl localhost:8080/Account/alice/deposit --json 100
curl localhost:8080/Account/alice/transfer -H 'idempotency-key: t1' --json '{"to": "bob", "amount": 30}'
curl localhost:8080/Account/alice/transfer_and_wait --json '{"to": "bob", "amount": 5}'
curl localhost:8080/Account/bob/look
"""

from typing import Annotated

from msgspec import Meta

from perdure.objects import TerminalError, VirtualObject, handler, shared

Cents = Annotated[int, Meta(gt=0)]


class InsufficientFunds(TerminalError):
    status = 409


class Account(VirtualObject):
    balance: int = 0
    frozen: bool = False

    @handler
    async def deposit(self, amount: Cents) -> int:
        if self.frozen:
            raise TerminalError("frozen", status=423)
        self.balance += amount
        return self.balance

    @handler
    async def withdraw(self, amount: Cents) -> int:
        if amount > self.balance:
            raise InsufficientFunds(f"{self.key} has {self.balance}")
        self.balance -= amount
        return self.balance

    @handler
    async def transfer(self, to: str, amount: Cents) -> int:
        """Debit and message are one turn: both or neither. The credit follows exactly once."""
        await self.withdraw(amount)  # plain call: same turn
        self.ctx.ref(Account, to).deposit.send(amount)
        return self.balance

    @handler
    async def transfer_and_wait(self, to: str, amount: Cents) -> int:
        """The await is a commit, so a refusal by `to` has to be undone here."""
        await self.withdraw(amount)
        try:
            await self.ctx.ref(Account, to).deposit(amount)
        except TerminalError:
            self.balance += amount
            raise
        return self.balance

    @shared
    async def look(self) -> int:
        return self.balance
