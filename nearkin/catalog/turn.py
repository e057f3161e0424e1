"""One writer at a time, in a store that has no lock: whoever wants to write takes a ticket.

A ticket is a row that only its owner writes. Who has put one looks for others, and finding any takes it back and tries
again: of two who do so at the same time at least the later one sees the other, if what was written is seen by whoever
looks afterwards. A holder renews its ticket. One that stays as it is belongs to a process that was killed, and is taken
away, after a time by the clock of the one who is waiting: clocks of two machines are never compared.
"""

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from nearkin.errors import InputError

log = logging.getLogger("nearkin")

RENEWED = 10.0
"""Seconds between two renewals."""

EXPIRED = 60.0
"""Seconds without a renewal after which the owner is taken for dead."""

LOOKED = 1.0
"""Seconds between two looks of one who is waiting."""


class Tickets(Protocol):
    """Where the tickets are, by id. What a method has written when it returns is seen by all."""

    def read(self) -> dict[str, str]:
        """Texts of all tickets."""

    def write(self, id: str, text: str) -> None:
        """Put a ticket, or another text on it."""

    def remove(self, id: str) -> None:
        """Take a ticket away, if it is there."""


class Turn:
    """The right to write: wait for it with `held`.

    Args:
        tickets: Of all who want to write.
        where: What they write into, as a person calls it.
    """

    def __init__(self, tickets: Tickets, where: str) -> None:
        self.tickets, self.where = tickets, where
        self.id, self.renewals = uuid.uuid4().hex, 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait until nobody else writes, then be the one who does.

        Raises:
            InputError: In the end: another took this process for dead, and wrote meanwhile.
        """
        self._wait()
        done = threading.Event()
        renewing = threading.Thread(target=self._renew_until, args=(done,), daemon=True)
        renewing.start()
        try:
            yield
            self.check()
        finally:
            done.set()
            renewing.join()
            with suppress(InputError):  # a ticket that stays expires
                self.tickets.remove(self.id)

    def check(self) -> None:
        """See that nobody else has taken the turn.

        Raises:
            InputError: Somebody has.
        """
        if self.id not in self.tickets.read():
            raise InputError(
                f"this process stood still for more than {EXPIRED:.0f} s, and another one has gone on with "
                f"{self.where}; run the command again"
            )

    def _wait(self) -> None:
        seen: dict[str, tuple[str, float]] = {}  # others' tickets: their text, and since when it has been that
        while True:
            others, now = self._others(), time.monotonic()
            if not others:
                self._renew()
                if not self._others():
                    return
                self.tickets.remove(self.id)
                time.sleep(random.uniform(0, LOOKED))  # not both at once again
                continue
            if not seen:
                log.warning(
                    "%s: %s is writing into it; waiting for that (%.0f s, if it was killed)",
                    *(self.where, json.loads(next(iter(others.values())))["who"], EXPIRED),
                )
            seen = {id: seen[id] if seen.get(id, ("",))[0] == text else (text, now) for id, text in others.items()}
            for id, (_, since) in seen.items():
                if now - since > EXPIRED:
                    self.tickets.remove(id)
            time.sleep(LOOKED)

    def _others(self) -> dict[str, str]:
        return {id: text for id, text in self.tickets.read().items() if id != self.id}

    def _renew(self) -> None:
        self.renewals += 1
        who = f"process {os.getpid()} on {socket.gethostname()}"
        self.tickets.write(self.id, json.dumps({"who": who, "renewals": self.renewals}))

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(RENEWED):
            with suppress(InputError):  # the server may answer the next time
                if self.id not in self.tickets.read():
                    return  # taken away: to write it anew would hide that
                self._renew()
