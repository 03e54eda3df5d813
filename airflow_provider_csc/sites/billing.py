"""
What an hour of an allocation costs, as data.

Every published formula (CSC user guide, computing/hpc-billing.md; LUMI user guide,
runjobs/lumi_env/billing.md) is the largest of some terms, or the only one, and a few more added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from pydantic import BaseModel, ConfigDict, Field

_GIB = 2**30


class Quantity(Enum):
    """What is counted of an allocation."""

    NODES = "nodes"
    CORES = "cores"
    MEMORY_GIB = "memory_gib"
    GPUS = "gpus"
    LOCAL_DISK_GIB = "local_disk_gib"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a job is given, in all; that is what it is billed for, used or not."""

    nodes: int = 1
    cores: int = 1
    memory_bytes: int = 0
    gpus: int = 0
    local_disk_bytes: int = 0

    def count(self, quantity: Quantity) -> float:
        """Return how much of something it has."""
        match quantity:
            case Quantity.NODES:
                return self.nodes
            case Quantity.CORES:
                return self.cores
            case Quantity.MEMORY_GIB:
                return self.memory_bytes / _GIB
            case Quantity.GPUS:
                return self.gpus
            case Quantity.LOCAL_DISK_GIB:
                return self.local_disk_bytes / _GIB


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Term(_Model):
    """``factor * of / per``, the quotient rounded up where ``round_up`` says so."""

    of: Quantity
    factor: float = Field(default=1, ge=0)
    per: float = Field(default=1, gt=0)
    round_up: bool = False

    def amount(self, allocation: Allocation) -> float:
        """Return the units of one hour."""
        quotient = allocation.count(self.of) / self.per
        return self.factor * (math.ceil(quotient) if self.round_up else quotient)


class Billing(_Model):
    """A formula: ``factor`` times the largest of the terms, and what is added to that."""

    unit: str = Field(min_length=1, description="As the site calls it, for example 'CPU BU'.")
    factor: float = Field(default=1, ge=0)
    highest_of: tuple[Term, ...] = Field(min_length=1)
    plus: tuple[Term, ...] = ()

    def per_hour(self, allocation: Allocation) -> float:
        """Return the units that an hour of an allocation costs."""
        most = max(term.amount(allocation) for term in self.highest_of)
        return self.factor * most + sum(term.amount(allocation) for term in self.plus)

    def cost(self, allocation: Allocation, seconds: float) -> float:
        """Return the units that a time of an allocation costs."""
        return self.per_hour(allocation) * seconds / 3600
