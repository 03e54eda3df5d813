"""Two tasks, two jobs, one configuration in YAML beside this file."""

from airflow.sdk import dag

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(schedule=None, tags=["example"])
def slurm_config():
    report = SlurmSubmitOperator(
        task_id="report",
        command='echo "$WHO, run $RUN, with $LOADEDMODULES"',
        config="slurm_config.yaml",
        deferrable=True,
    )
    each = SlurmSubmitOperator.partial(
        task_id="each",
        config="slurm_config.yaml",
        options={"mem": "200M"},  # what a task says itself wins
        deferrable=True,
    ).expand(command=["python3 -c 'import numpy'", "test $SLURM_MEM_PER_NODE = 200"])
    report >> each


slurm_config()
