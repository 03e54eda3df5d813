"""Where the logs of tasks are served: on the loopback, like everything of the demo."""


def loopback() -> str:
    """Answer Airflow's question for this machine's name."""
    return "127.0.0.1"
