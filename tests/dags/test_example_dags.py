"""Every example is imported, and run to its end by Airflow's own scheduler and triggerer."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from docker.lib.airflow_rest import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker.lib.airflow_rest import Airflow, DagRun

T = TypeVar("T")

EXAMPLES = Path(__file__).parents[2] / "example_dags"
DAG_FILES = sorted(path for path in EXAMPLES.glob("*.py") if "airflow" in path.read_text())

RESULT_KEYS = {
    "job_id", "name", "cluster", "state", "exit_code", "signal", "reason", "partition", "nodes",
    "submit_time", "start_time", "end_time", "elapsed_seconds", "cpu_efficiency", "max_rss_bytes",
    "run_dir", "stdout_path", "stderr_path", "pending_reasons", "resubmissions",
    "memory_efficiency", "billing_units", "advice",
}  # fmt: skip
ROUNDS = 12
FILES = 1000
RUN_SECONDS = 300
RUNS_AT_ONCE = 4


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_an_example_imports_and_defines_a_dag(path: Path) -> None:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag
    bag = DagBag(path)
    assert bag.import_errors == {}
    assert bag.dag_ids


@dataclass
class Watched:
    """One finished run, and what the log page of its training showed while it was deferred."""

    run: DagRun
    bucket: str
    state: str = ""
    seen_while_deferred: set[str] = field(default_factory=set)
    end: float = field(default_factory=lambda: time.monotonic() + RUN_SECONDS)

    @property
    def is_open(self) -> bool:
        """Whether more may become of it: it has not ended, and has time left."""
        return self.state not in ("success", "failed") and time.monotonic() < self.end

    def look(self) -> None:
        self.state = self.run.state()
        if self.run.dag_id == "train_on_slurm" and self.task_states["train"] == "deferred":
            self.seen_while_deferred.update(self.log("train"))

    @property
    def task_states(self) -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in self.run.tasks()}

    def log(self, task_id: str, map_index: int = -1) -> list[str]:
        return [line["event"] for line in self.run.log(task_id, map_index=map_index)]

    def logs(self) -> str:
        """Return all of them, for the message of a failure."""
        tasks = self.run.tasks()
        lines = [f"{task['task_id']}[{task['map_index']}]: {task['state']}" for task in tasks]
        for task in tasks:
            if task["state"] not in ("success", "skipped"):
                for number in range(1, task["try_number"] + 1):
                    log = self.run.log(
                        task["task_id"], try_number=number, map_index=task["map_index"]
                    )
                    lines += ["", task["task_id"], *(json.dumps(line) for line in log)]
        return "\n".join(lines)


@pytest.fixture(scope="session")
def runs(
    airflow: Airflow,
    watch: Callable[..., dict[str, Watched]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Watched]:
    """All examples, some of them at once: one Airflow does not run one DAG at a time either."""
    return watch(
        airflow,
        slurm_chain={},
        hello_slurm={},
        slurm_python={},
        slurm_config={},
        slurm_array={},
        slurm_environment={},
        slurm_two_sites={},
        slurm_mapped={},
        train_on_slurm={"rounds": ROUNDS},
        train_on_slurm_with_sensor={"rounds": ROUNDS, "minimum_accuracy": 1.0},
        train_from_allas={"rounds": 2},
        allas_transfer={"directory": str(tmp_path_factory.mktemp("transfer"))},
        allas_pack={"directory": str(tmp_path_factory.mktemp("pack")), "files": FILES},
    )


def submit_while_the_first_runs(
    watched: Watched, task_ids: tuple[str, ...], slurm_conf: str
) -> None:
    """Suspend the job of the first task until each of the others has one, however long it takes."""

    def poll(ask: Callable[[], T | None]) -> T | None:
        """Ask until there is an answer, or the run has ended or takes too long for one to come."""
        while (answer := ask()) is None:
            watched.look()
            if not watched.is_open:
                break
            time.sleep(0.5)
        return answer

    first, *others = (partial(find_xcom, watched.run, task_id, "job_id") for task_id in task_ids)
    job_id = poll(first)
    if job_id is None or poll(partial(suspends, job_id, slurm_conf)) is None:
        return
    try:
        for other in others:
            if poll(other) is None:
                return
    finally:
        control_job("resume", job_id, slurm_conf)


def suspends(job_id: str, slurm_conf: str) -> bool | None:
    """Suspend it, if it runs."""
    return control_job("suspend", job_id, slurm_conf) or None


def control_job(command: str, job_id: str, slurm_conf: str) -> bool:
    """Do that as root, who administers the cluster."""
    environment = {**os.environ, "SLURM_CONF": slurm_conf}
    return (
        subprocess.run(["scontrol", command, job_id], env=environment, check=False).returncode == 0
    )


def find_xcom(run: DagRun, task_id: str, key: str) -> str | None:
    try:
        return str(run.xcom(task_id, key))
    except RefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return None


@pytest.fixture(scope="session")
def watch(cluster: dict[str, Any]) -> Callable[..., dict[str, Watched]]:
    def start(airflow: Airflow, dag_id: str, conf: dict[str, Any]) -> Watched:
        airflow.wait_for_dag(dag_id)
        bucket = f"test-{dag_id.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
        run = airflow.trigger(dag_id, {**conf, "bucket": bucket} if conf else {})
        watched = Watched(run, bucket)
        if dag_id == "slurm_chain":
            tasks = ("prepare", "train", "report")
            submit_while_the_first_runs(watched, tasks, cluster["slurm_conf"])
        return watched

    def start_and_follow(airflow: Airflow, **confs: dict[str, Any]) -> dict[str, Watched]:
        watched: dict[str, Watched] = {}
        while len(watched) < len(confs) or any(one.is_open for one in watched.values()):
            for one in watched.values():
                if one.is_open:
                    one.look()
            for dag_id, conf in list(confs.items())[len(watched) :]:
                if sum(one.is_open for one in watched.values()) < RUNS_AT_ONCE:
                    watched[dag_id] = start(airflow, dag_id, conf)
            time.sleep(2)  # each question takes the API server some processor time
        return watched

    return start_and_follow


def read_object(store: Any, bucket: str, key: str) -> bytes:
    body: bytes = store.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


def was_well(log: list[dict[str, Any]]) -> bool:
    """Whether a try had seen its job's end without an error when Airflow ended it."""
    has_error = any(line.get("level") == "error" for line in log)
    return not has_error and any(line["event"] == "trigger completed" for line in log)


DONE = {"event": "trigger completed", "level": "info"}
ERROR = {"event": "Task failed with exception", "level": "error"}


@pytest.mark.parametrize(
    ("log", "well"), [([], False), ([ERROR], False), ([DONE, ERROR], False), ([DONE], True)]
)
def test_a_try_without_a_log_or_with_an_error_was_not_well(
    log: list[dict[str, Any]], well: bool
) -> None:
    assert was_well(log) is well


@pytest.mark.cluster
def test_no_try_fails_of_itself(runs: dict[str, Watched]) -> None:
    """On a busy machine Airflow may end one whose trigger was quicker than its scheduler."""
    for watched in runs.values():
        for task in watched.run.tasks():
            for number in range(1, task["try_number"]):
                log = watched.run.log(
                    task["task_id"], try_number=number, map_index=task["map_index"]
                )
                assert was_well(log), (watched.run.dag_id, task["task_id"], number, log)


@pytest.mark.cluster
class TestHello:
    def test_it_succeeds_and_returns_what_became_of_the_job(self, runs: dict[str, Watched]) -> None:
        hello = runs["hello_slurm"]
        assert hello.state == "success", hello.logs()
        result = hello.run.xcom("hello")
        assert set(result) == RESULT_KEYS
        assert (result["state"], result["exit_code"]) == ("COMPLETED", 0)
        assert str(hello.run.xcom("hello", "job_id")) == result["job_id"]

    def test_the_job_speaks_in_the_task_log(self, runs: dict[str, Watched]) -> None:
        job_id = runs["hello_slurm"].run.xcom("hello", "job_id")
        assert any(f"job {job_id} on c" in line for line in runs["hello_slurm"].log("hello"))


@pytest.mark.cluster
class TestPython:
    def test_every_instance_returns_what_its_function_returned(
        self, runs: dict[str, Watched]
    ) -> None:
        watched = runs["slurm_python"]
        assert watched.state == "success", watched.logs()
        assert 3.1 < watched.run.xcom("estimate") < 3.2
        assert [task["task_id"] for task in watched.run.tasks()].count("count_inside") == 3


@pytest.mark.cluster
class TestConfig:
    def test_a_task_and_mapped_ones_find_what_the_file_says(self, runs: dict[str, Watched]) -> None:
        watched = runs["slurm_config"]
        assert watched.state == "success", watched.logs()
        said = f"alice, run {watched.run.run_id}, with python-data/"
        assert any(line.startswith(said) for line in watched.log("report"))
        assert [task["task_id"] for task in watched.run.tasks()].count("each") == 2


@pytest.mark.cluster
class TestEnvironment:
    def test_the_job_runs_in_the_environment_that_was_built(self, runs: dict[str, Watched]) -> None:
        watched = runs["slurm_environment"]
        assert watched.state == "success", watched.logs()
        built = watched.run.xcom("tools")
        assert built["modules"] == ["python-data"]
        (line,) = [line for line in watched.log("use") if line.startswith("in ")]
        assert f"/.builds/{Path(built['path']).name}." in line


@pytest.mark.cluster
class TestTwoSites:
    def test_each_site_makes_its_own_of_the_same_needs(self, runs: dict[str, Watched]) -> None:
        watched = runs["slurm_two_sites"]
        assert watched.state == "success", watched.logs()
        partitions = {"slurm_default": "gpu", "slurm_lumi": "small-g"}
        for connection, partition in partitions.items():
            lines = watched.log(f"{connection}.train")
            assert f"2 cores of {partition}" in lines
            assert any("/.builds/portable-" in line for line in lines if line.startswith("in "))
            assert watched.run.xcom(f"{connection}.train")["partition"] == partition


@pytest.mark.cluster
class TestChain:
    def test_all_jobs_are_queued_before_the_first_has_ended_and_run_in_order(
        self, runs: dict[str, Watched]
    ) -> None:
        chain = runs["slurm_chain"]
        assert chain.state == "success", chain.logs()
        prepare, train, report = (chain.run.xcom(name) for name in ("prepare", "train", "report"))
        assert train["submit_time"] < prepare["end_time"] <= train["start_time"]
        assert train["end_time"] <= report["start_time"]


@pytest.mark.cluster
class TestArray:
    def test_every_run_of_the_array_is_in_the_result(self, runs: dict[str, Watched]) -> None:
        array = runs["slurm_array"]
        assert array.state == "success", array.logs()
        result = array.run.xcom("simulate")
        assert set(result) == RESULT_KEYS | {"array"}
        assert result["array"]["counts"] == {"COMPLETED": 20}
        assert array.run.xcom("report") == 20

    def test_each_run_speaks_in_the_task_log_behind_its_index(
        self, runs: dict[str, Watched]
    ) -> None:
        lines = runs["slurm_array"].log("simulate")
        assert all(
            len([line for line in lines if line.startswith(f"[{index}] seed {index} on c")]) == 1
            for index in range(20)
        )


@pytest.mark.cluster
class TestMapped:
    def test_each_instance_has_a_result_though_they_share_arrays(
        self, runs: dict[str, Watched]
    ) -> None:
        mapped = runs["slurm_mapped"]
        assert mapped.state == "success", mapped.logs()
        counts = mapped.run.xcom("count_arrays")
        assert counts["instances"] == 10
        assert counts["arrays"] < 10

    def test_each_instance_has_a_log_of_its_own(self, runs: dict[str, Watched]) -> None:
        for index in range(10):
            lines = runs["slurm_mapped"].log("throw", index)
            assert len([line for line in lines if line.startswith(f"seed {index}: ")]) == 1
            assert not [line for line in lines if line.startswith(f"seed {(index + 1) % 10}: ")]


@pytest.fixture
def trained(runs: dict[str, Watched]) -> Watched:
    return runs["train_on_slurm"]


@pytest.fixture
def rejected(runs: dict[str, Watched]) -> Watched:
    return runs["train_on_slurm_with_sensor"]


@pytest.mark.cluster
class TestTraining:
    def test_the_model_is_trained_and_published(self, trained: Watched) -> None:
        assert trained.state == "success", trained.logs()
        states = trained.task_states
        assert states.pop("reject") == "skipped"
        assert set(states.values()) == {"success"}

    def test_log_lines_of_the_job_are_shown_while_the_task_is_deferred(
        self, trained: Watched
    ) -> None:
        assert [line for line in trained.seen_while_deferred if line.startswith("round 1, c")]

    def test_every_line_of_the_job_is_in_the_task_log_once(self, trained: Watched) -> None:
        lines = [line for line in trained.log("train") if line.startswith("round ")]
        assert len(lines) == len(set(lines)) == ROUNDS * 3

    def test_it_runs_on_two_nodes_which_share_the_work(self, trained: Watched, store: Any) -> None:
        result = trained.run.xcom("train")
        metrics = json.loads(read_object(store, trained.bucket, metrics_key(trained)))
        assert len(set(metrics["nodes"])) == 2
        assert metrics["job_id"] == result["job_id"]
        shares = {
            line.split(": ")[0]: line
            for line in trained.log("train")
            if line.startswith("round 1, c")
        }
        assert len(shares) == 2
        assert metrics["train_size"] == sum(int(line.split()[5]) for line in shares.values())

    def test_the_stored_model_has_the_stored_accuracy(self, trained: Watched, store: Any) -> None:
        import numpy as np

        def arrays(name: str) -> Any:
            data = read_object(store, trained.bucket, f"{trained.run.run_id}/{name}")
            return np.load(io.BytesIO(data), allow_pickle=False)

        weights, data = arrays("model.npz")["weights"], arrays("dataset.npz")
        images, labels = data["test_images"], data["test_labels"]
        images = np.hstack([images, np.ones((len(images), 1))])
        measured = float(((images @ weights).argmax(axis=1) == labels).mean())
        metrics = json.loads(read_object(store, trained.bucket, metrics_key(trained)))
        assert measured == pytest.approx(metrics["test_accuracy"])
        assert 0.9 <= measured < 1.0
        assert trained.run.xcom("read_metrics") == metrics

    def test_the_published_model_is_the_trained_one(self, trained: Watched, store: Any) -> None:
        model = read_object(store, trained.bucket, f"{trained.run.run_id}/model.npz")
        assert read_object(store, trained.bucket, "published/model.npz") == model

    def test_no_url_and_no_key_stays_on_the_cluster_or_in_airflow(
        self, trained: Watched, cluster: dict[str, Any]
    ) -> None:
        run_dir = Path(trained.run.xcom("train")["run_dir"])
        kept = {path: path.read_bytes() for path in run_dir.iterdir()}
        for secret in (b"Signature", cluster["s3_access_key"].encode()):
            assert [path.name for path, text in kept.items() if secret in text] == []
        assert not Path(trained.run.xcom("hand_over")).exists()
        shown = json.dumps(
            [trained.run.tasks(), trained.run.log("train"), trained.log("hand_over")]
        )
        assert "Signature" not in shown


@pytest.mark.cluster
class TestTrainingWithSensor:
    def test_a_model_below_the_threshold_is_rejected(self, rejected: Watched) -> None:
        assert rejected.state == "success", rejected.logs()
        states = rejected.task_states
        assert states.pop("publish") == "skipped"
        assert set(states.values()) == {"success"}
        assert rejected.run.xcom("read_metrics")["test_accuracy"] < 1.0

    def test_the_sensor_returns_what_became_of_the_submitted_job(self, rejected: Watched) -> None:
        submitted, waited = rejected.run.xcom("train"), rejected.run.xcom("wait_for_training")
        assert submitted["state"] == "PENDING"
        assert (waited["job_id"], waited["state"]) == (submitted["job_id"], "COMPLETED")
        assert set(submitted) == RESULT_KEYS
        # A sensor submits nothing, so that it has nothing to price either.
        assert set(waited) == RESULT_KEYS - {"resubmissions", "billing_units", "advice"}


def metrics_key(watched: Watched) -> str:
    return f"{watched.run.run_id}/metrics.json"


@pytest.mark.cluster
class TestAllasTransfer:
    def test_files_go_to_allas_and_come_back(self, runs: dict[str, Watched], store: Any) -> None:
        watched = runs["allas_transfer"]
        assert watched.state == "success", watched.logs()
        for day in (1, 2, 3):
            key = f"published/day {day}/values.csv"
            assert (
                read_object(store, watched.bucket, key) == f"day,value\n{day},{day**2}\n".encode()
            )
        listed = store.list_objects_v2(Bucket=watched.bucket)["KeyCount"]
        assert listed == 6
        lines = watched.log("send") + watched.log("fetch")
        assert sum("Transferred 3 files" in line and "verified" in line for line in lines) == 2


@pytest.mark.cluster
class TestAllasPack:
    def test_a_thousand_files_are_one_object_and_come_back_as_files(
        self, runs: dict[str, Watched], store: Any
    ) -> None:
        watched = runs["allas_pack"]
        assert watched.state == "success", watched.logs()
        listed = store.list_objects_v2(Bucket=watched.bucket)["Contents"]
        assert [each["Key"] for each in listed] == ["measurements.tar.zst"]
        assert watched.run.xcom("send")["packed_files"] == FILES
        fetched = watched.run.xcom("fetch")
        assert (fetched["transferred"], fetched["packed_files"]) == (1, FILES)
        files = Path(fetched["destination"]).rglob("*.txt")
        assert {file.read_text() for file in files} == {f"{n} {n**2}\n" for n in range(FILES)}


@pytest.mark.cluster
class TestTrainingFromAllas:
    def test_the_job_fetches_its_data_and_delivers_its_model(
        self, runs: dict[str, Watched], store: Any
    ) -> None:
        watched = runs["train_from_allas"]
        assert watched.state == "success", watched.logs()
        staged = watched.run.xcom("train")["staged"]
        assert (staged["fetched"]["files"], staged["delivered"]["files"]) == (2, 2)
        listed = store.list_objects_v2(Bucket=watched.bucket, Prefix="models/")["Contents"]
        assert sorted(each["Key"].rpartition("/")[2] for each in listed) == [
            "metrics.json",
            "model.npz",
        ]
        lines = watched.log("train")
        assert any("was given URLs for 2 objects" in line for line in lines)
        assert not [line for line in lines if "X-Amz" in line]
