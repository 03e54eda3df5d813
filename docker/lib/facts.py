"""Read "path=value" lines, write them as nested JSON."""

import json
import sys

NUMBERS = {"ssh_port", "port", "slurm_gpus_per_node", "slurm_node_cpus", "slurm_node_memory_mb"}
LISTS = {"slurm_partitions", "slurm_nodes", "slurm_gpu_nodes", "sites"}


def typed(name: str, text: str) -> object:
    if name in LISTS:
        return text.split()
    return int(text) if name in NUMBERS else text


facts: dict = {}
for line in sys.stdin:
    path, _, text = line.rstrip("\n").partition("=")
    *parents, name = path.split(".")
    inner = facts
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[name] = typed(name, text)
print(json.dumps(facts, indent=2))
