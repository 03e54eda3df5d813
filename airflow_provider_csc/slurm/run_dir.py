"""
The files of a run directory, ``<work_dir of the connection>/<token>/``, each of them small.

They are what a task, a later try of it and a reaper know of a job when Airflow has lost everything.
"""

from __future__ import annotations

import re

# Who submitted: JSON, see `identity.TaskIdentity.to_json`.
IDENTITY_FILE = "identity.json"
# The user's script, unmodified, and what Slurm runs around it.
SCRIPT_FILE = "script"
BATCH_FILE = "batch.sh"
# The id of the one job of this submission, in the first line; then what scontrol said of it.
JOB_ID_FILE = "job_id"
# The remote step is over, and sbatch did not say whether Slurm took the job.
NO_VERDICT_FILE = "no_verdict"
# A kill, with the seconds of grace: before there is a job, nothing is submitted any more.
CANCEL_FILE = "cancel"
LOG_FILE = "stdout.log"
# The variables of the job, where its batch script may be shared by others.
EXPORTS_FILE = "exports.sh"
# In the directory of an array of several tasks' jobs: the run directory of each element, one a
# line; and the array's name, an empty line for one that sacct cannot search for.
MEMBERS_FILE = "members"
NAME_FILE = "array_name"
# How far the logs were shown, and by what the job is known again.
PROGRESS_FILE = "log_offsets"
# What the job itself wrote as its very last act.
EXIT_FILE = "exit.json"
# What a Python function returned, or how it failed; see `python_task`.
RESULT_FILE = "result.json"
# In place of the last and of the log, for each task of a job array; the number is Slurm's own.
ARRAY_LOG_FILE = "stdout.%a.log"
ARRAY_EXIT_FILE = "exit.%a.json"
# What a job that stages does it with; how it calls its present start; the URLs for that (none stays
# longer than it is needed); what was begun in the store for it; and what it has done.
STAGE_FILE = "stage.sh"
STAGE_WANTED_FILE = "staging.wanted"
STAGE_URLS_FILE = "staging.urls"
STAGE_ISSUED_FILE = "staging.issued"
STAGE_RECEIPTS_FILE = "staging.receipts"
# Beside the run directory, not in it: where the log-in node stages, the files of a job.
FILES_SUFFIX = ".files"
# The end its task took note of; of an array, in a second line, which of its tasks completed.
VERDICT_FILE = "verdict"

_NAMES = {
    "IDENTITY": IDENTITY_FILE,
    "SCRIPT": SCRIPT_FILE,
    "BATCH": BATCH_FILE,
    "JOB_ID": JOB_ID_FILE,
    "NO_VERDICT": NO_VERDICT_FILE,
    "CANCEL": CANCEL_FILE,
    "LOG": LOG_FILE,
    "EXPORTS": EXPORTS_FILE,
    "MEMBERS": MEMBERS_FILE,
    "NAME": NAME_FILE,
    "PROGRESS": PROGRESS_FILE,
    "EXIT": EXIT_FILE,
    "RESULT": RESULT_FILE,
    "ARRAY_LOG": ARRAY_LOG_FILE,
    "ARRAY_EXIT": ARRAY_EXIT_FILE.replace("%a", "$SLURM_ARRAY_TASK_ID"),
    "ARRAY_EXITS": ARRAY_EXIT_FILE.replace("%a", "*"),
    "VERDICT": VERDICT_FILE,
    "STAGE": STAGE_FILE,
    "STAGE_WANTED": STAGE_WANTED_FILE,
    "STAGE_URLS": STAGE_URLS_FILE,
    "STAGE_ISSUED": STAGE_ISSUED_FILE,
    "STAGE_RECEIPTS": STAGE_RECEIPTS_FILE,
}


def fill_names(program: str) -> str:
    """Replace ``/@JOB_ID`` and its like in the text of a shell program by the files' names."""
    return re.sub(r"/@([A-Z_]+)", lambda found: f"/{_NAMES[found[1]]}", program)
