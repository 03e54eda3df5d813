"""
Take the pictures of this directory, in a real browser, from a real Airflow.

    python docs/screenshots/take.py AIRFLOW_JSON CLUSTER_JSON [PART...]

Needs: Debian's packages chromium and chromium-driver; a virtual environment with selenium and
Pillow; a running cluster (docker/cluster up) and a running demo (docker/airflow up), as they
describe themselves in AIRFLOW_JSON (/var/lib/csc-demo/airflow.json) and CLUSTER_JSON
(/var/lib/csc-cluster/cluster.json). An Airflow of one's own for the pictures:

    DEMO_DIR=/tmp/pictures AIRFLOW_PORT=8085 docker/airflow up

PART is any of: providers, forms, slurm, allas, run; without one, all of them. "mapped" takes the last
run of the DAG "mapped" of the benchmark, see benchmarks/mapped.py. "forms" alone suits
any other Airflow with this provider, whose AIRFLOW_JSON one writes by hand ({"url", "user",
"password"}); set PREFIX=airflow-3.1- to name its pictures apart.

The connections are typed into the forms, field by field, as a person does it, and removed at the
end. No picture shows a secret: keys are given as files, and passwords fields mask what is typed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "docker" / "lib"))
from airflow_rest import Airflow  # noqa: E402

PREFIX = os.environ.get("PREFIX", "")
WIDTH, HEIGHT = 1400, 900
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMEDRIVER = os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")


class Browser:
    """A person at Airflow's page, with a camera."""

    def __init__(self, airflow: Airflow, profile: str) -> None:
        options = Options()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS.split(), f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        self.airflow = airflow
        self.driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
        self.resize()

    def resize(self, height: int = HEIGHT) -> None:
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def log_in(self) -> None:
        self.driver.get(f"{self.airflow.url}/connections")
        self.find("[name=username]").send_keys(self.airflow._user)
        self.find("[name=password]").send_keys(self.airflow._password)
        self.find("button[type=submit]").click()
        self.wait(lambda: self.button("Add Connection"))

    def open(self, path: str, until: str) -> None:
        self.driver.get(path if "://" in path else self.airflow.url + path)
        self.wait(lambda: until in self.text())
        time.sleep(1.5)

    def wait(self, condition, seconds: float = 30):
        waiting = WebDriverWait(self.driver, seconds, 0.1, [StaleElementReferenceException])
        return waiting.until(lambda _: condition())

    def find(self, selector: str):
        return self.wait(lambda: next(iter(self.all(selector)), None))

    def all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self) -> str:
        return self.driver.execute_script("return document.body.innerText")

    def button(self, name: str):
        """Return a button by what stands on it, or by its label."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('button')].find(b => "
            "[b.innerText.trim(), b.ariaLabel].includes(arguments[0]))", name
        )

    def click(self, element) -> None:
        """Click also what a tooltip lies over."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)

    def photograph(self, name: str, *, crop: str | None = None) -> None:
        image = Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        if crop:
            box = self.driver.execute_script(
                "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
                "return [r.left - 12, r.top - 12, r.right + 12, r.bottom + 12]", crop
            )
            image = image.crop((max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)))
        path = HERE / f"{PREFIX}{name}.png"
        image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.name}: {image.width}x{image.height}, {path.stat().st_size // 1024} kB", flush=True)

    # The connection form

    def begin_connection(self, conn_id: str, kind: str) -> None:
        self.open("/connections", "Add Connection")
        self.click(self.button("Add Connection"))
        self.find("[role=dialog] [name=connection_id]").send_keys(conn_id)
        chooser = self.find("[role=dialog] input[role=combobox]")
        self.wait(lambda: chooser.is_enabled() and chooser.is_displayed())
        chooser.send_keys(kind)
        time.sleep(0.7)
        chooser.send_keys(Keys.ENTER)
        self.unfold("Extra Fields")

    def unfold(self, title: str) -> None:
        header = self.wait(lambda: self.button(title))
        if header.get_attribute("aria-expanded") != "true":
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", header)
            header.click()
            self.wait(lambda: header.get_attribute("aria-expanded") == "true")
        time.sleep(0.8)

    def fill(self, fields: dict[str, str]) -> None:
        """Type into the fields; those of Airflow itself by their names, others by element_NAME."""
        standard = {"host", "login", "port", "password", "description"}
        for title, names in (("Standard Fields", standard), ("Extra Fields", fields.keys() - standard)):
            if not names & fields.keys():
                continue
            self.unfold(title)
            for name in fields:
                if name in names:
                    self.type_into(name if name in standard else f"element_{name}", fields[name])

    def type_into(self, name: str, value: str) -> None:
        typed = f"[role=dialog] [name={name}]:not([type=hidden])"
        field = next(iter(self.all(typed)), None)
        if field is None or field.get_attribute("aria-hidden"):
            self.choose(name, value)
            return
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.clear()
        for start in range(0, len(value), 20):  # React drops a key after 50 without a pause.
            field.send_keys(value[start : start + 20])
            time.sleep(0.1)

    def choose(self, name: str, value: str) -> None:
        trigger = self.find(f"[role=dialog] [id='{name}'], [role=dialog] [id*='{name}'] input")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", trigger)
        if trigger.tag_name == "input":
            trigger.send_keys(value)
            time.sleep(0.5)
            trigger.send_keys(Keys.ENTER)
            return
        trigger.click()
        time.sleep(0.5)
        option = next(o for o in self.all("[role=option]") if o.text.strip() == value)
        self.click(option)

    def photograph_form(self, name: str) -> None:
        """Take the whole dialog, however long, with its extra fields open and the others too."""
        self.resize(6000)
        time.sleep(1)
        self.photograph(name, crop="[role=dialog]")
        self.resize()

    def save(self) -> None:
        self.click(self.button("Save"))
        self.wait(lambda: not self.all("[role=dialog]"))
        time.sleep(0.5)

    def add_connection(self, conn_id: str, kind: str, fields: dict[str, str]) -> None:
        self.begin_connection(conn_id, kind)
        self.fill(fields)
        self.save()

    def test(self, conn_id: str, seconds: float = 30) -> str:
        """Press Test Connection in a row of the list; return what appears."""
        rows = self.driver.find_elements(By.XPATH, f"//tr[td[normalize-space()='{conn_id}']]")
        if not rows:
            raise LookupError(conn_id)
        count = len(self.all("[data-scope=toast][data-part=root]"))
        self.click(rows[0].find_element(By.CSS_SELECTOR, "[aria-label='Test Connection']"))
        toasts = "[data-scope=toast][data-part=root]"
        self.wait(lambda: len(self.all(toasts)) > count, seconds)
        time.sleep(0.2)
        said = self.all("[data-scope=toast][data-part=description]")[0].text
        print(f"  {conn_id}: {said}", flush=True)
        return said

    def test_all(self, picture: str, conn_ids: list[str]) -> None:
        """Press the button of each; the pointer rests on the first answer, so that all stay."""
        self.open("/connections", conn_ids[-1])
        pointer = webdriver.ActionChains(self.driver)
        for conn_id in conn_ids:
            self.test(conn_id)
            pointer.move_to_element(self.find("[data-scope=toast][data-part=root]")).perform()
        time.sleep(0.8)
        self.photograph(picture)


# What is photographed


def take_providers(browser: Browser) -> None:
    browser.open("/providers", "airflow-provider-csc")
    browser.photograph("providers")


def take_forms(browser: Browser) -> None:
    """Take both forms as they are before anything is typed."""
    for kind in ("slurm", "allas"):
        browser.begin_connection(f"my_{kind}", kind)
        browser.unfold("Standard Fields")
        if browser.button("Extra Fields").get_attribute("aria-expanded") != "true":
            browser.photograph_form(f"form-{kind}-standard")
            browser.unfold("Extra Fields")
        browser.photograph_form(f"form-{kind}")


def take_slurm(browser: Browser, cluster: dict, directory: Path) -> None:
    good = {
        "host": cluster["ssh_host"],
        "login": "alice",
        "port": str(cluster["ssh_port"]),
        "key_file": cluster["users"]["alice"]["private_key"],
        "known_hosts": cluster["ssh_known_hosts"],
        "account": cluster["users"]["alice"]["account"],
        "partition": "small",
        "work_dir": cluster["users"]["alice"]["scratch"] + "/airflow-runs",
        "poll_interval_floor": "2",
    }
    stranger = make_key(directory / "stranger")
    certified = make_expired_certificate(directory, cluster)
    host_key = " ".join((directory / "stranger.pub").read_text().split()[:2])
    unknown = directory / "known_hosts"
    unknown.write_text("")
    bad = {
        "slurm_host_key_unknown": {"known_hosts": str(unknown)},
        "slurm_host_key_changed": {"known_hosts": "", "host_key": host_key},
        "slurm_key_refused": {"key_file": str(stranger)},
        "slurm_certificate_expired": {"key_file": str(certified)},
        "slurm_port_refused": {"port": "2229"},
        "slurm_name_unknown": {"host": "roihu-cpu.csc.invalid"},
        "slurm_not_found": {"login_setup": f"export PATH={hide_slurm(directory)}"},
    }
    browser.begin_connection("slurm_by_hand", "slurm")
    browser.fill(good)
    browser.photograph_form("form-slurm-filled")
    browser.save()
    browser.test_all("test-slurm-good", ["slurm_by_hand"])
    for conn_id, changed in bad.items():
        wanted = {name: value for name, value in (good | changed).items() if value}
        browser.add_connection(conn_id, "slurm", wanted)
    names = list(bad)
    browser.test_all("test-slurm-bad-host", [n for n in names if "host_key" in n] + names[4:6])
    browser.test_all("test-slurm-bad-login", [*names[2:4], names[6]])


def take_allas(browser: Browser, cluster: dict) -> None:
    good = {
        "port": "0",
        "login": cluster["s3_access_key"],
        "password": cluster["s3_secret_key"],
        "endpoint": "custom",
        "endpoint_url": cluster["s3_endpoint_url"],
        "bucket_name": "csc-train-on-slurm",
        "project": "project_2001234",
    }
    bad = {
        "allas_wrong_access_key": {"login": "0123456789abcdef"},
        "allas_wrong_secret_key": {"password": "not-the-secret"},
        "allas_port_refused": {"endpoint_url": "http://127.0.0.1:7489"},
        "allas_no_url": {"endpoint_url": ""},
    }
    browser.begin_connection("allas_by_hand", "allas")
    browser.fill({name: value for name, value in good.items() if name != "login"})
    browser.photograph_form("form-allas-filled")
    browser.fill({"login": good["login"]})
    browser.save()
    for conn_id, changed in bad.items():
        wanted = {name: value for name, value in (good | changed).items() if value}
        browser.add_connection(conn_id, "allas", wanted)
    browser.test_all("test-allas-good", ["allas_by_hand"])
    browser.test_all("test-allas-bad", list(bad))


def take_run(browser: Browser) -> None:
    """Take a run of the example from its job's first lines to its end."""
    browser.airflow.wait_for_dag("train_on_slurm")
    run = browser.airflow.trigger("train_on_slurm", {"rounds": 40})
    wait_for_line(run, "round 3, averaged")
    browser.open(f"{run.page}/tasks/train", "averaged")
    browser.photograph("log-while-deferred")
    while run.state() not in ("success", "failed"):
        time.sleep(1)
    # A second one, of the usual length, whose whole log fits a picture.
    run = browser.airflow.trigger("train_on_slurm", {"rounds": 4})
    while run.state() not in ("success", "failed"):
        time.sleep(1)
    browser.open(run.page, "Task Instances")
    browser.photograph("run-grid")
    browser.click(browser.find("[aria-label^='Show Graph']"))
    time.sleep(4)
    browser.photograph("run-graph")
    browser.click(browser.find("[aria-label^='Show Grid']"))
    browser.resize(1200)
    browser.open(f"{run.page}/tasks/train", "Accounting of job")
    browser.photograph("log-train")
    browser.resize()


def take_mapped(browser: Browser) -> None:
    """Take a thousand mapped tasks: the grid, their list, and the log of one."""
    runs = browser.airflow.get("/dags/mapped/dagRuns?order_by=-start_date&limit=1")["dag_runs"]
    page = f"{browser.airflow.url}/dags/mapped/runs/{quote(runs[0]['dag_run_id'])}"
    browser.open(page, "Task Instances")
    browser.photograph("mapped-grid")
    browser.open(f"{page}/tasks/job/mapped", "Task Instances")
    browser.photograph("mapped-tasks")
    browser.open(f"{page}/tasks/job/mapped/700", "seed 700")
    browser.photograph("mapped-log")


def wait_for_line(run, text: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        state = next(t["state"] for t in run.tasks() if t["task_id"] == "train")
        if state == "deferred" and any(text in line["event"] for line in run.log("train")):
            return
        time.sleep(0.3)
    sys.exit(f"take: no line {text!r} while the task was deferred")


def make_key(path: Path) -> Path:
    ssh_keygen("-t", "ed25519", "-N", "", "-C", "stranger", "-f", path)
    return path


def make_expired_certificate(directory: Path, cluster: dict) -> Path:
    key = make_key(directory / "certified")
    ssh_keygen("-s", cluster["ssh_user_ca_key"], "-I", "expired", "-n", "alice", "-V", "-2h:-1h", f"{key}.pub")
    return key


def hide_slurm(directory: Path) -> Path:
    """Make a directory of programs among which there is no sbatch."""
    programs = directory / "bin"
    programs.mkdir()
    directory.chmod(0o755)
    for name in ("id", "uname", "hostname", "cat", "base64", "bash", "sh", "env", "head", "wc"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    return programs


def ssh_keygen(*arguments: object) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, arguments)], check=True)


def remove_connections(airflow: Airflow) -> None:
    for connection in airflow.get("/connections?limit=100")["connections"]:
        if not connection["connection_id"].endswith("_default"):
            airflow.call("DELETE", f"/connections/{connection['connection_id']}")


def main(airflow_json: str, cluster_json: str, *parts: str) -> None:
    airflow, cluster = Airflow(airflow_json), json.loads(Path(cluster_json).read_text())
    wanted = parts or ("providers", "forms", "slurm", "allas", "run")
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        directory = Path(name)
        browser = Browser(airflow, f"{name}/profile")
        try:
            browser.log_in()
            for part in wanted:
                match part:
                    case "providers":
                        take_providers(browser)
                    case "forms":
                        take_forms(browser)
                    case "slurm":
                        take_slurm(browser, cluster, directory)
                    case "allas":
                        take_allas(browser, cluster)
                    case "run":
                        take_run(browser)
                    case "mapped":
                        take_mapped(browser)
                    case _:
                        sys.exit(__doc__)
        except BaseException:
            browser.driver.save_screenshot(str(Path(tempfile.gettempdir(), "take-failed.png")))
            raise
        finally:
            browser.driver.quit()
            if {"slurm", "allas"} & set(wanted) and not os.environ.get("KEEP"):
                remove_connections(airflow)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
