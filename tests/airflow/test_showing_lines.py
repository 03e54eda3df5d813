"""How the lines of a job get into its task's log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from airflow_provider_csc.client import turns
from airflow_provider_csc.triggers import slurm

if TYPE_CHECKING:
    import pytest


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, *args: object) -> None:
        self.lines.append(message % args)

    def log(self, _level: int, message: str, /, *args: object) -> None:
        self.info(message, *args)


def test_other_triggers_run_while_many_lines_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_TURN_SECONDS", -1.0)
    log = Log()
    seen: list[int] = []

    async def other() -> None:
        while len(log.lines) < 100:
            seen.append(len(log.lines))
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(slurm._show([f"100% {n}" for n in range(100)], log), other())

    asyncio.run(main())
    assert log.lines == [f"100% {n}" for n in range(100)]
    assert len(seen) > 50
