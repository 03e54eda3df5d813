"""A hundred of Airflow's own tasks: what ours are held against."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag


@dag(schedule=None)
def parsed():
    for number in range(100):
        BashOperator(task_id=f"task_{number}", bash_command=f"echo {number}")


parsed()
