"""Slurm supercomputers and Ceph object stores for Apache Airflow."""
