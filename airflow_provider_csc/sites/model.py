"""
What is known of a site: how to log in, its partitions and what they cost, its disks.

A profile is data with its source. Where the site itself answers (``scontrol show partition``,
``sacctmgr show assoc``), its answer wins.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic reads annotations
from enum import Enum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from airflow_provider_csc.sites.billing import Billing  # noqa: TC001 - pydantic reads annotations
from airflow_provider_csc.sites.notation import Memory, Time  # noqa: TC001 - as above

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Line = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\n\x00]*$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
Count = Annotated[int, Field(ge=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(Enum):
    """What programs have to be built for (``uname -m``)."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Sharing(Enum):
    """What a partition hands out."""

    RESOURCES = "resources"
    """Cores and memory, each as asked for."""
    NODES = "nodes"
    """Whole nodes."""
    CORES = "cores"
    """Cores, and memory in proportion to them."""
    GPUS = "gpus"
    """GPUs, and with each its share of cores and memory."""


class GpuOption(Enum):
    """The option of sbatch by which GPUs are asked for; both count per node."""

    GRES = "gres"
    GPUS_PER_NODE = "gpus-per-node"


class DiskOption(Enum):
    """How a job asks for a disk of its node."""

    NONE = "none"
    """It need not; what there is can be used."""
    GRES_NVME = "gres:nvme"
    """``--gres=nvme:GB``."""
    MEMORY = "memory"
    """It is kept in memory, and counts as such."""


class Gpus(_Model):
    """The GPUs of a partition's nodes."""

    option: GpuOption = GpuOption.GRES
    type: Name | None = Field(default=None, description="As in 'gpu:TYPE:N'; none where none is.")
    per_node: Count
    per_job: Count | None = None
    least_per_job: Count = 1
    cores_each: Count | None = Field(default=None, description="That can be used beside one.")
    memory_each: Memory | None = None


class LocalDisk(_Model):
    """Disk space of a node that a job can use, and where it finds it."""

    option: DiskOption = DiskOption.NONE
    most: Memory | None = None
    path: Line = Field(description="With shell variables, as '$TMPDIR'.")


class Partition(_Model):
    """One partition: what it hands out, to whom, and what that costs."""

    title: Text | None = None
    sharing: Sharing = Sharing.RESOURCES
    max_time: Time | None = None
    least_nodes: Count = 1
    max_nodes: Count | None = None
    cores_per_node: Count | None = None
    max_cores: Count | None = Field(default=None, description="Of one job, in all.")
    memory_per_node: Memory | None = Field(default=None, description="That jobs can have.")
    memory_per_core: Memory | None = Field(default=None, description="Where it follows cores.")
    gpus: Gpus | None = None
    local_disk: LocalDisk | None = None
    architecture: Architecture | None = Field(default=None, description="Where not the site's.")
    gate: Text | None = Field(default=None, description="What a project needs to be let in.")
    is_automatic: bool = Field(
        default=True,
        description="Whether a job that names no partition may get it; not for tests, "
        "interactive work, and what a project has to apply for.",
    )
    max_submitted: Count | None = Field(default=None, description="Jobs of one user.")
    max_running: Count | None = None
    options: dict[Name, str] = Field(
        default={}, description="Of sbatch, which every job there has to have."
    )
    billing: Name | None = Field(default=None, description="One of the site's formulas.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sharing is Sharing.GPUS and self.gpus is None:
            raise ValueError("sharing: 'gpus' needs the field gpus")
        if self.sharing is Sharing.NODES and self.cores_per_node is None:
            raise ValueError("sharing: 'nodes' needs the field cores_per_node")
        if self.max_nodes is not None and self.max_nodes < self.least_nodes:
            raise ValueError("max_nodes is smaller than least_nodes")
        return self


class LogIn(_Model):
    """The way in by SSH."""

    host: Line | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    nodes: tuple[Line, ...] = Field(default=(), description="Behind the host's name.")
    host_key_fingerprints: tuple[Fingerprint, ...] = ()
    certificate_hours: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="For how long a user certificate is valid, where one is needed."
    )
    certificate_from: Text | None = Field(default=None, description="Where to get one.")
    setup: str = Field(default="", description="Shell lines before each command there.")


class Jobs(_Model):
    """What jobs need beside what their author asks for."""

    options: dict[Name, str] = Field(default={}, description="Of sbatch, where not given.")
    env: dict[str, str] = {}
    module_paths: tuple[Line, ...] = Field(default=(), description="For 'module use'.")
    needs_account: bool = True
    max_array_size: Count | None = None


class Area(_Model):
    """A place for files that all nodes see; ``{project}`` and ``{user}`` stand for names."""

    path: Line
    quota: Memory | None = None
    files: Count | None = Field(default=None, description="Quota of their number.")
    purge_days: Count | None = Field(default=None, description="Unused files go after so long.")
    is_backed_up: bool = False


class BalanceCommand(Enum):
    """The program that tells what a project may still use."""

    CSC_PROJECTS = "csc-projects"
    LUMI_ALLOCATIONS = "lumi-allocations"


class WorkspaceCommand(Enum):
    """The program that tells what is used of the disk areas."""

    CSC_WORKSPACES = "csc-workspaces"
    LUMI_QUOTA = "lumi-quota"


class Commands(_Model):
    """Programs of the site's own on its log-in nodes."""

    balance: BalanceCommand | None = None
    workspaces: WorkspaceCommand | None = None


class Retirement(_Model):
    """A machine that takes no jobs any more."""

    since: dt.date
    successor: Name
    reason: Text | None = None


class SiteProfile(_Model):
    """One Slurm site, or one half of it that has a log-in node of its own."""

    name: Name
    title: Text
    sources: tuple[Text, ...] = ()
    as_of: dt.date | None = Field(default=None, description="When the sources said so.")
    cluster: Name | None = Field(default=None, description="Slurm's ClusterName.")
    architecture: Architecture | None = None
    log_in: LogIn = LogIn()
    jobs: Jobs = Jobs()
    partitions: dict[Name, Partition] = {}
    billing: dict[Name, Billing] = {}
    areas: dict[Name, Area] = {}
    commands: Commands = Commands()
    web_interface: Line | None = None
    retired: Retirement | None = None
    can_nodes_reach_out: bool = Field(
        default=True, description="Whether jobs can fetch and deliver files by themselves."
    )

    @model_validator(mode="after")
    def _check_billing(self) -> Self:
        for name, partition in self.partitions.items():
            if partition.billing is not None and partition.billing not in self.billing:
                known = ", ".join(self.billing) or "none"
                raise ValueError(
                    f"partitions.{name}.billing: there is no formula {partition.billing!r} "
                    f"(there are: {known})"
                )
        return self

    def billing_of(self, partition: str) -> Billing | None:
        """Return the formula of a partition, where it is known."""
        found = self.partitions.get(partition)
        return self.billing[found.billing] if found and found.billing else None
