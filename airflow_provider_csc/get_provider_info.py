"""
What Airflow reads about this package in every process; imports nothing.

The connection forms below are their only description. Airflow 3.2 and later read them from here
(``conn-fields``, ``ui-field-behaviour``); Airflow 3.1 asks the hook classes, which answer from here
through :mod:`airflow_provider_csc.hooks._forms`.

A field's ``schema`` is JSON schema as Airflow's page draws it (read in 3.1.0 and 3.3.2): ``null``
beside the type makes it optional, ``enum`` a select, ``boolean`` a check box, the formats
``password`` and ``multiline`` a masked input and a text area. Extra fields have no placeholder, and
``examples`` would say "Start typing to see options" in each, so examples are in the help text. A
key text is ``multiline`` because a masked input is a single line, in which a browser drops the line
ends a key needs; Airflow masks it by its name when it shows the connection again. (3.1 masks no
extra field while one types.)
"""

from __future__ import annotations


def get_provider_info() -> dict[str, object]:
    """Describe this provider in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-csc",
        "name": "CSC",
        "description": (
            "Run jobs on Slurm supercomputers such as Roihu and LUMI, with their data in Allas "
            "or any other Ceph object store."
        ),
        "integrations": [
            {
                "integration-name": "Slurm",
                "external-doc-url": "https://slurm.schedmd.com/",
                "tags": ["service"],
            },
            {
                "integration-name": "Allas",
                "external-doc-url": "https://docs.csc.fi/data/Allas/",
                "tags": ["service"],
            },
        ],
        "hooks": [_modules("Slurm", "hooks.slurm"), _modules("Allas", "hooks.allas")],
        "operators": [
            _modules(
                "Slurm", "operators.slurm", "operators.slurm_billing", "operators.environments"
            ),
            _modules("Allas", "operators.allas", "transfers.allas", "transfers.allas_slurm"),
        ],
        "sensors": [_modules("Slurm", "sensors.slurm"), _modules("Allas", "sensors.allas")],
        "triggers": [
            _modules(
                "Slurm",
                "triggers.slurm",
                "triggers.slurm_dependency",
                "triggers.slurm_queue",
                "triggers.slurm_submit",
            ),
            _modules("Allas", "triggers.allas"),
        ],
        "connection-types": [SLURM_CONNECTION, ALLAS_CONNECTION],
        "task-decorators": [
            {"name": "slurm", "class-name": "airflow_provider_csc.decorators.slurm.slurm_task"}
        ],
        "extra-links": ["airflow_provider_csc.links.slurm.SlurmJobLink"],
        "config": {"csc": CONFIG_SECTION},
        "cli": ["airflow_provider_csc.cli.definition.get_cli_commands"],
    }


def _modules(integration: str, *modules: str) -> dict[str, object]:
    return {
        "integration-name": integration,
        "python-modules": [f"airflow_provider_csc.{module}" for module in modules],
    }


def _field(label: str, description: str, **schema: object) -> dict[str, object]:
    return {"label": label, "description": description, "schema": schema}


def _text(label: str, description: str, *examples: str) -> dict[str, object]:
    shown = f" For example: {', '.join(examples)}" if examples else ""
    return _field(label, description + shown, type=["string", "null"])


def _text_area(label: str, description: str) -> dict[str, object]:
    return _field(label, description, type=["string", "null"], format="multiline")


def _secret(label: str, description: str) -> dict[str, object]:
    return _field(label, description, type=["string", "null"], format="password")


def _seconds(label: str, description: str) -> dict[str, object]:
    # With a minimum, Airflow 3.1 frames an empty field in red.
    return _field(label, description, type=["integer", "null"])


def _check_box(label: str, description: str) -> dict[str, object]:
    return _field(label, description, type=["boolean", "null"], default=False)


def _choice(label: str, description: str, *values: str) -> dict[str, object]:
    return _field(label, description, type=["string", "null"], enum=list(values))


SLURM_CONNECTION: dict[str, object] = {
    "connection-type": "slurm",
    "hook-class-name": "airflow_provider_csc.hooks.slurm.SlurmHook",
    "hook-name": "Slurm",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "password"],
        "relabeling": {"host": "Log-in node", "login": "User name"},
        "placeholders": {
            "host": "roihu-cpu.csc.fi",
            "port": "22 (enter it: Airflow 3.3.2 tests no connection without a port)",
            "login": "your CSC user name",
        },
    },
    "conn-fields": {
        "site": _text(
            "Site",
            "Name of a site profile (airflow csc sites list), which then says whatever is left "
            "empty here: log-in node, its host key, log-in set-up, web interface, staging, and "
            "options that all jobs there need.",
            "roihu-cpu",
            "lumi",
        ),
        "key_file": _text(
            "Private key file",
            "Path of the SSH private key where tasks run (workers and triggerer). "
            "A certificate beside it, named <key>-cert.pub, is used with it.",
            "~/.ssh/id_ed25519",
        ),
        "private_key": _text_area(
            "Private key text",
            "The SSH private key itself, all its lines, instead of a file. "
            "Shown while you paste it, masked ever after.",
        ),
        "private_key_passphrase": _secret(
            "Private key passphrase", "Opens the private key, be it a file or a text."
        ),
        "certificate_file": _text(
            "Certificate file",
            "Path of the signed SSH user certificate where tasks run, when it does not lie "
            "beside the key. Roihu accepts a key only with a certificate, valid for 24 hours.",
            "~/.ssh/id_ed25519-cert.pub",
        ),
        "certificate": _text_area(
            "Certificate text", "The signed SSH user certificate itself, instead of a file."
        ),
        "known_hosts": _text_area(
            "Known hosts",
            "Path of a known_hosts file where tasks run, or its lines themselves "
            "(from ssh-keyscan, checked against the site's published fingerprints).",
        ),
        "host_key": _text(
            "Host key",
            "The log-in node's public host key, as one line, instead of known hosts.",
            "ssh-ed25519 AAAA…",
        ),
        "no_host_key_check": _check_box(
            "Do not check the host key",
            "Insecure: whoever answers at this address is trusted. For throw-away clusters only.",
        ),
        "jump_hosts": _text(
            "Jump hosts",
            "Hosts to pass on the way, first hop first: user@host:port, separated by commas.",
            "me@gateway.example.org:22",
        ),
        "connect_timeout": _seconds(
            "Connect timeout",
            "Seconds allowed for reaching the log-in node and logging in. Default: 30.",
        ),
        "account": _text(
            "Account",
            "Project that jobs are billed to, unless a task names its own (sbatch --account).",
            "project_2001234",
        ),
        "partition": _text(
            "Partition",
            "Where jobs run, unless a task names its own (sbatch --partition).",
            "small",
            "test",
        ),
        "time": _text(
            "Time limit",
            "Longest run of a job, unless a task sets its own (sbatch --time).",
            "00:30:00",
            "1-00:00:00",
        ),
        "work_dir": _text(
            "Work directory",
            "Directory on the cluster under which each job gets its run directory; the compute "
            "nodes must see it too. Default: ~/airflow-runs.",
            "/scratch/project_2001234/airflow-runs",
        ),
        "login_setup": _text_area(
            "Log-in set-up",
            "Shell lines run before each command on the log-in node, for example "
            "export PATH=/opt/slurm/bin:$PATH",
        ),
        "poll_interval_floor": _seconds(
            "Shortest poll interval",
            "Seconds. This site is never asked more often than that, whatever tasks wish. "
            "Default: 5.",
        ),
        "staging": _choice(
            "Staging",
            "Who fetches and delivers a job's inputs and outputs: node, the job itself (default), "
            "or login, the log-in node, where compute nodes reach no object store.",
            "node",
            "login",
        ),
        "web_interface": _text(
            "Web interface",
            "Address of the site's Open OnDemand; a task's link then opens the job's run "
            "directory there.",
            "https://www.roihu.csc.fi",
            "https://www.lumi.csc.fi",
        ),
    },
}

ALLAS_CONNECTION: dict[str, object] = {
    "connection-type": "allas",
    "hook-class-name": "airflow_provider_csc.hooks.allas.AllasHook",
    "hook-name": "Allas (S3)",
    "ui-field-behaviour": {
        # Airflow 3.3.1 and 3.3.2 answer "Bad Request" to Test Connection where no port is stored
        # (apache/airflow#73298): nothing else asks for one here.
        "hidden-fields": ["host", "schema"],
        "relabeling": {"login": "Access key", "password": "Secret key", "port": "Port (not used)"},
        "placeholders": {
            "login": "from: openstack ec2 credentials create",
            "password": "the secret that belongs to it",
            "port": "0 (enter it: Airflow 3.3.2 tests no connection without a port)",
        },
    },
    "conn-fields": {
        "endpoint": _choice(
            "Object store",
            "allas (https://a3s.fi, the default), lumi-o (https://lumidata.eu), "
            "or custom with its URL below. With a credentials file the default is what it says.",
            "allas",
            "lumi-o",
            "custom",
        ),
        "endpoint_url": _text(
            "Endpoint URL",
            "URL of another Ceph or S3 service; only with the object store custom.",
            "https://s3.example.org",
        ),
        "bucket_name": _text(
            "Default bucket",
            "Bucket for calls that name none. Names are shared by all of Allas: "
            "put your project number in.",
            "2001234-airflow",
        ),
        "project": _text(
            "Project",
            "Project the keys belong to; named in messages, so that a wrong key is found sooner.",
            "project_2001234",
        ),
        "region_name": _text(
            "Region",
            "Only for a service that checks it; Allas and LUMI-O do not.",
            "us-east-1",
        ),
        "addressing_style": _choice(
            "Addressing",
            "path (https://host/bucket, the default, works everywhere), "
            "virtual (https://bucket.host), or auto (the client decides).",
            "path",
            "virtual",
            "auto",
        ),
        "ca_bundle": _text(
            "CA bundle",
            "Path, where tasks run, of the certificates that vouch for the endpoint, "
            "when its certificate is not publicly trusted.",
            "/etc/ssl/certs/ca-certificates.crt",
        ),
        "credentials_file": _text(
            "Credentials file",
            "Instead of both keys: path, where tasks run, of a file that allas-conf, lumio-conf, "
            "aws, s3cmd or rclone keeps keys in. Read again when it changes.",
            "~/.aws/credentials",
            "~/.s3cfg",
            "~/.config/rclone/rclone.conf",
        ),
        "profile": _text(
            "Profile",
            "Section of the credentials file, when it holds the keys of several.",
            "s3allas-project_2001234",
            "lumi-465000001-private",
        ),
    },
}

CONFIG_SECTION: dict[str, object] = {
    "description": "Settings of the CSC provider (Slurm and Allas).",
    "options": {
        "deployment": {
            "description": (
                "Name of this Airflow deployment; part of the token by which a job finds its "
                "task. Set it when two deployments with equal [api] base_url submit as the same "
                "cluster user; without it the reaper leaves jobs of deleted runs alone."
            ),
            "version_added": "0.1.0",
            "type": "string",
            "example": "production",
            "default": "",
        },
        "preflight_seconds": {
            "description": (
                "Before a job is submitted, maintenances, accounts, partitions and free space of "
                "its site are looked at. For so many seconds a machine believes the answers of the "
                "last time; 0 asks before each job."
            ),
            "version_added": "0.1.0",
            "type": "float",
            "example": None,
            "default": "600",
        },
        "sites_folder": {
            "description": (
                "Folder with site profiles of your own, NAME.yaml, on every machine where tasks "
                "run; several are separated by colons, and the first of them wins."
            ),
            "version_added": "0.1.0",
            "type": "string",
            "example": "/opt/airflow/sites",
            "default": "",
        },
    },
}
