"""The error for a value that is not in Slurm's notation, and how a value is shown in an error."""

from __future__ import annotations

from typing import TypeGuard

_LONGEST_SHOWN = 80


class NotationError(ValueError):
    """A value that Slurm would not read; ``remedy`` says what it reads, with an example."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


def shown(value: object) -> str:
    """Return a value as an error message shows it: its repr, the middle left out when long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:50]}…{text[-20:]}"


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether a value is an int that was meant as a number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def number_text(value: str | int) -> str:
    """Return the text of a number as it was given; none for True and False."""
    return "" if isinstance(value, bool) else str(value).strip()
