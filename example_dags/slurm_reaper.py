"""What nobody waits for any more, on the cluster: jobs and run directories, reported every hour."""

from airflow_provider_csc.reaper import build_reaper_dag

# It only reports. Once its reports are what you expect, say dry_run=False.
slurm_reaper = build_reaper_dag(slurm_conn_ids=["slurm_default"], tags=["example"])
