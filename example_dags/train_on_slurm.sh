#!/bin/bash
# Runs on the first of the job's nodes, in its run directory. Airflow fills in {{ "{{ … }}" }}.
set -euo pipefail

handed_over='{{ ti.xcom_pull(task_ids="hand_over") }}'

# The URL stays in a file: as an argument or a variable, others on the node could see it.
curl --config "$handed_over/download.curl"

for round in $(seq {{ params.rounds }}); do
  srun python3 "$handed_over/softmax.py" train "$round" {{ params.epochs }}
  python3 "$handed_over/softmax.py" average "$round" "$SLURM_NTASKS"
done
python3 "$handed_over/softmax.py" report "$SLURM_NTASKS"

curl --config "$handed_over/upload.curl"
