"""
Where environments lie on the cluster.

``<prefix>/<name>-<architecture>-<hash>`` is a link to ``.builds/<the same>.<job id>``, where the
environment was built and stays: programs in it name their own place. The link is made last, so what
has it is complete. Beside it ``….lock`` is a link to nothing whose text says who builds it.
"""

from __future__ import annotations

import re

BUILDS_DIR = ".builds"
# In an environment: what it is, the versions in it, those it only sees, when a job last used it.
RECORD_FILE = "csc-environment.json"
VERSIONS_FILE = "csc-requirements.txt"
INHERITED_FILE = "csc-inherited.txt"
USED_FILE = "csc-last-used"
LOCK_SUFFIX = ".lock"
MARK = "airflow-provider-csc"
ARCHITECTURE = re.compile(r"[A-Za-z0-9_]{1,32}")
# The last part of a build's name is its job.
BUILD_NAME = re.compile(
    r"(?P<entry>(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})-(?P<architecture>[A-Za-z0-9_]{1,32})"
    r"-(?P<hash>[0-9a-f]{12}))\.(?P<job>[0-9]+)"
)


def entry_name(name: str, architecture: str, short_hash: str) -> str:
    """Return the name of an environment below its prefix."""
    return f"{name}-{architecture}-{short_hash}"
