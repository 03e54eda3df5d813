"""A Python environment that is built once, and a job that runs in it."""

from airflow.sdk import dag

from airflow_provider_csc.operators.environments import PythonEnvironmentOperator
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(schedule=None, tags=["example"], doc_md=__doc__)
def slurm_environment():
    tools = PythonEnvironmentOperator(
        task_id="tools",
        recipe={
            "name": "tools",
            "modules": ["python-data"],
            "system_site_packages": True,  # what the module has need not be installed again
            "packages": [],  # for example "xgboost>=3"
            "imports": ["numpy"],
        },
        prefix="~/airflow-environments",  # at CSC a directory on /projappl
        options={"time": "00:10:00", "mem": "1G"},
        poll_interval=2,
        deferrable=True,
    )
    SlurmSubmitOperator(
        task_id="use",
        command="python -c 'import numpy, sys; print(\"in\", sys.prefix, numpy.__version__)'",
        environment=tools.output,  # its modules are loaded, too
        options={"time": "00:05:00", "mem": "200M"},
        poll_interval=2,
        deferrable=True,
    )


slurm_environment()
