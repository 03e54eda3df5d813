"""What we are compared with: other people's packages, as they are installed."""

from pathlib import Path

# flytekit has demands of its own on what else is installed.
BENCH_PYTHON = Path(__file__).parents[2] / ".venv-bench" / "bin" / "python"
# The name that stands in ~/.ssh/config, since the connector has no field for a port.
FLYTE_HOST = "bench-node"
