"""Requests to an object store, without Airflow."""
