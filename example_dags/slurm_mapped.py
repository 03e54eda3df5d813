"""Ten mapped instances, one Slurm array: each has its own log, result and retries."""

from airflow.sdk import dag, task

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(schedule=None, tags=["example"])
def slurm_mapped():
    throw = SlurmSubmitOperator.partial(
        task_id="throw",
        command='RANDOM=$SEED; echo "seed $SEED: $((RANDOM % 6 + 1))"',
        options={"time": "00:01:00", "mem": "100M"},
        deferrable=True,
        coalesce=True,  # instances that come within a few seconds become one array
        retries=1,
    ).expand(env=[{"SEED": seed} for seed in range(10)])

    @task
    def count_arrays(results):
        arrays = {result["job_id"].partition("_")[0] for result in results}
        return {"instances": len(results), "arrays": len(arrays)}

    count_arrays(throw.output)


slurm_mapped()
