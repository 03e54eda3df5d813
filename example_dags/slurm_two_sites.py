"""One and the same work at two sites: a connection names its site, whose profile says the rest."""

from airflow.sdk import TaskGroup, dag

from airflow_provider_csc.operators.environments import PythonEnvironmentOperator
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.sites.resources import Resources

CONNECTIONS = ["slurm_default", "slurm_lumi"]
# No partition, and no option of sbatch: each site has its own.
NEEDS = Resources(gpus_per_node=1, cpus_per_task=2, memory_per_node="1G", time="00:10:00")


@dag(schedule=None, tags=["example"], doc_md=__doc__)
def slurm_two_sites():
    for connection in CONNECTIONS:
        at_site = {"slurm_conn_id": connection, "poll_interval": 2, "deferrable": True}
        with TaskGroup(connection, default_args=at_site):
            tools = PythonEnvironmentOperator(
                task_id="tools",
                recipe={"name": "portable", "packages": []},  # for example "xgboost>=3"
                prefix="~/airflow-environments",  # at CSC a directory on /projappl
                job_resources=NEEDS,
            )
            SlurmSubmitOperator(
                task_id="train",
                command="""
                python -c 'import sys; print("in", sys.prefix)'
                echo "$SLURM_CPUS_PER_TASK cores of $SLURM_JOB_PARTITION"
                """,
                environment=tools.output,
                job_resources=NEEDS,
            )


slurm_two_sites()
