"""
Three jobs that wait for each other inside Slurm: all are in the queue from the start.

No edge of Airflow's leads from one task to the next; `depends_on` is Slurm's own dependency.
"""

from airflow.sdk import dag

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator

SMALL = {"time": "00:02:00", "mem": "100M"}


@dag(
    schedule=None,
    default_args={"retries": 1},
    tags=["example"],
    doc_md="prepare → train → report, chained inside Slurm",
)
def slurm_chain():
    prepare = SlurmSubmitOperator(
        task_id="prepare", command="sleep 60; date", options=SMALL, deferrable=True
    )
    train = SlurmSubmitOperator(
        task_id="train", command="sleep 5; date", options=SMALL, depends_on=prepare, deferrable=True
    )
    SlurmSubmitOperator(
        task_id="report",
        command="date",
        options=SMALL,
        depends_on={"afterany": [train]},  # also when the training failed
        deferrable=True,
    )


slurm_chain()
