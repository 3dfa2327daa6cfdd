#!/usr/bin/env bash
# Several trainings at once on one machine: one recipe, disjoint GPUs, a line of changes for each job.
# use     shell/start_finetune.sh                 start every job below (or of JOBS_FILE)
#         shell/start_finetune.sh start JOB ...   start these
#         shell/start_finetune.sh status          what runs, where it logs, how it ended
#         shell/start_finetune.sh stop [JOB ...]  stop these, or all; by PID file, never by name
#         DRY_RUN=1 shows the commands; VENV=DIR or CONDA_ENV=NAME is activated first; more: docs/launchers.md
set -euo pipefail
cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository

### what to run: edit it here, or set it from outside
LAUNCHER=${LAUNCHER:-shell/train_chatts_8b_qlora.sh} # any launcher; its recipe is the recipe of all jobs
JOBS_FILE=${JOBS_FILE:-}                             # empty: the jobs below
JOBS=${JOBS:-'
# name       | GPUs | settings that differ from the recipe
rank8        | 0    | lora_rank=8
rank16       | 1    | lora_rank=16
'}
OUTPUT_ROOT=${OUTPUT_ROOT:-saves/jobs} # OUTPUT_ROOT/JOB/date holds a job's result, beside it are its log and PID file
VENV=${VENV:-}                         # folder of a virtual environment
CONDA_ENV=${CONDA_ENV:-}               # or name of a conda environment
DEVICE=${DEVICE:-cuda}                 # cpu: the numbers of GPUs are slots
SLOTS=${SLOTS:-$(nproc)}               # how many
FIRST_PORT=${FIRST_PORT:-29600}        # a job's master port is this + its first GPU
STOP_SECONDS=${STOP_SECONDS:-60}       # then a job that was asked to stop is killed

### the command
refuse() { echo "start_finetune.sh: $1" >&2 && exit 2; }
set +u # activation scripts are the user's
# shellcheck disable=SC1091
[[ -z $VENV ]] || source "$VENV/bin/activate" || refuse "VENV=$VENV is no virtual environment: name its folder"
[[ -z $CONDA_ENV ]] || { eval "$(conda shell.bash hook)" && conda activate "$CONDA_ENV"; } ||
    refuse "CONDA_ENV=$CONDA_ENV is not there (see: conda env list), or conda is not on the PATH"
type lmf-chatts >/dev/null || refuse "set VENV or CONDA_ENV to the environment that LLaMA-Factory is installed in"
exec lmf-chatts jobs --launcher "$LAUNCHER" --jobs "$JOBS" --jobs-file "$JOBS_FILE" --folder "$OUTPUT_ROOT" \
    --device "$DEVICE" --slots "$SLOTS" --first-port "$FIRST_PORT" --stop-seconds "$STOP_SECONDS" -- "$@"
