"""``python -m airflow_provider_csc.configs [configs|job]``: the JSON Schema, for editors."""

from __future__ import annotations

import json
import sys

from airflow_provider_csc.configs.models import Configs, JobConfig

_MODELS = {"configs": Configs, "job": JobConfig}


def main(arguments: list[str]) -> int:
    """Write the schema of one of the models; return the exit status."""
    model = _MODELS.get(arguments[0]) if len(arguments) == 1 else None
    if model is None:
        sys.stderr.write(f"usage: python -m airflow_provider_csc.configs {'|'.join(_MODELS)}\n")
        return 2
    sys.stdout.write(json.dumps(model.model_json_schema(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
