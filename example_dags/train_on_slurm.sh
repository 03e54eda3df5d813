#!/bin/bash
# Runs on the first of the job's nodes, in its run directory; a template of Airflow.
set -euo pipefail

# What the task `hand_over` laid down: the program, and the URLs of this run's objects. A URL
# is as good as a key for as long as it is valid, so it stays in files that nobody else reads
# (an argument or a variable would be seen by others on the node), and goes with the job.
handed_over={{ ti.xcom_pull(task_ids="hand_over") }}
trap 'rm -rf "$handed_over"' EXIT

curl --config "$handed_over/download.curl"
for round in $(seq {{ params.rounds }}); do
  srun python3 "$handed_over/softmax.py" train "$round" {{ params.epochs }}
  python3 "$handed_over/softmax.py" average "$round" "$SLURM_NTASKS"
done
python3 "$handed_over/softmax.py" report "$SLURM_NTASKS"
curl --config "$handed_over/upload.curl"
