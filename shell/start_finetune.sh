#!/usr/bin/env bash
# Several trainings at once on one machine: one recipe, disjoint GPUs, a line of changes for each job.
# use     shell/start_finetune.sh                 start every job below (or of JOBS_FILE)
#         shell/start_finetune.sh start JOB ...   start these
#         shell/start_finetune.sh status          what runs, where it logs, how it ended
#         shell/start_finetune.sh stop [JOB ...]  stop these, or all; by PID file, never by name
#         DRY_RUN=1 shows the commands; VENV=DIR or CONDA_ENV=NAME is activated first; more: docs/launchers.md
set -euo pipefail
cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository

### what to run
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
DEVICE=${DEVICE:-cuda}                 # cpu: the numbers of GPUs are slots, as many as cores, or SLOTS
FIRST_PORT=${FIRST_PORT:-29600}        # a job's master port is this + its first GPU
STOP_SECONDS=${STOP_SECONDS:-60}       # then a job that was asked to stop is killed

refuse() { # what is wrong, what to change
    echo "start_finetune.sh: $1" >&2
    echo "  to mend it: $2" >&2
    exit 2
}

trimmed() { # without blanks at both ends
    local text=$1
    text=${text#"${text%%[![:space:]]*}"}
    echo "${text%"${text##*[![:space:]]}"}"
}

processes() { # of the run with PID file $1, known by the mark its launcher put into their environment
    grep -lsxzF -- "CHATTS_RUN=$(realpath -m "$1")" /proc/[0-9]*/environ | cut -d/ -f3 || true
}

leader() { # print the process group of job $1; fail when its PID file is gone, or the PID is another program by now
    local file=$OUTPUT_ROOT/$1.pid pid
    pid=$(cat "$file" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] || return 1
    grep -qsxzF -- "CHATTS_RUN=$(realpath -m "$file")" "/proc/$pid/environ" && echo "$pid"
}

fact() { sed -n "s/^$2=//p" "$OUTPUT_ROOT/$1.job"; } # what was noted when job $1 was started: gpus, log, output

known_jobs() { # names of all jobs that were ever started
    local file
    for file in "$OUTPUT_ROOT"/*.job; do
        [[ ! -e $file ]] || basename "$file" .job
    done
}

activate() {
    if [[ -n $VENV ]]; then
        [[ -f $VENV/bin/activate ]] || refuse "VENV=$VENV is no virtual environment" "Name its folder"
        set +u
        # shellcheck disable=SC1091 # the user's
        source "$VENV/bin/activate"
        set -u
    elif [[ -n $CONDA_ENV ]]; then
        command -v conda >/dev/null || refuse "CONDA_ENV is set, there is no conda" "Put it on the PATH, or use VENV"
        set +u
        eval "$(conda shell.bash hook)"
        conda activate "$CONDA_ENV" || refuse "conda has no environment $CONDA_ENV" "See: conda env list"
        set -u
    fi
}

declare -a NAMES=()
declare -A GPUS_OF=() CHANGES=() OWNER=()

read_jobs() { # fill the three lists; only the jobs named in the arguments, all without arguments
    local text=$JOBS line name gpus rest number=0 where=JOBS wanted
    if [[ -n $JOBS_FILE ]]; then
        [[ -f $JOBS_FILE ]] || refuse "JOBS_FILE=$JOBS_FILE is not there" "Paths are relative to $PWD"
        text=$(cat "$JOBS_FILE") where=$JOBS_FILE
    fi
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        line=$(trimmed "$line")
        [[ -n $line && $line != \#* ]] || continue
        IFS='|' read -r name gpus rest <<<"$line"
        name=$(trimmed "$name") gpus=$(trimmed "$gpus") rest=$(trimmed "$rest")
        [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ && $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] ||
            refuse "$where, line $number: '$line'" "Write: name | GPUs | key=value ..., as in: a | 0,1 | lora_rank=8"
        for wanted in $rest; do
            [[ $wanted == *=* ]] || refuse "$where, line $number: '$wanted' is no setting" "Write key=value"
        done
        [[ -z ${GPUS_OF[$name]:-} ]] || refuse "$where, line $number: two jobs $name" "Give each a name of its own"
        NAMES+=("$name")
        GPUS_OF[$name]=$gpus CHANGES[$name]=$rest
    done <<<"$text"
    for wanted in "$@"; do
        [[ -n ${GPUS_OF[$wanted]:-} ]] || refuse "there is no job $wanted" "The jobs are: ${NAMES[*]}"
    done
    (($# == 0)) || NAMES=("$@")
}

check_gpus() { # each GPU is there, and no two jobs share one, those that run already included
    local name id present
    if [[ $DEVICE == cpu ]]; then
        present=$(seq 0 $((${SLOTS:-$(nproc)} - 1)))
    else
        present=$(nvidia-smi --query-gpu=index --format=csv,noheader) ||
            refuse "no GPU is found" "Set DEVICE=cpu to run without"
    fi
    for name in $(known_jobs); do
        [[ -n $(processes "$OUTPUT_ROOT/$name.pid") ]] || continue
        for id in $(fact "$name" gpus | tr , ' '); do OWNER[$id]="$name (running)"; done
    done
    for name in "${NAMES[@]}"; do
        [[ -z $(processes "$OUTPUT_ROOT/$name.pid") ]] || refuse "$name runs already" "Stop it first: $0 stop $name"
        for id in ${GPUS_OF[$name]//,/ }; do
            grep -qx "$id" <<<"$present" || refuse "$name: there is no GPU $id" "There are: ${present//$'\n'/ }"
            [[ -z ${OWNER[$id]:-} ]] || refuse "$name and ${OWNER[$id]} would share GPU $id" "Give each its own"
            OWNER[$id]=$name
        done
    done
}

start_jobs() {
    local name stamp failed=0
    activate
    [[ -x $LAUNCHER ]] || refuse "LAUNCHER=$LAUNCHER cannot be run" "Use one of: $(echo shell/train_*.sh)"
    read_jobs "$@"
    ((${#NAMES[@]} > 0)) || refuse "there is no job" "Write a line for each into JOBS, or into JOBS_FILE"
    mkdir -p "$OUTPUT_ROOT"
    exec 8>"$OUTPUT_ROOT/.lock"
    flock 8 # two starts at the same moment must see each other's jobs
    check_gpus
    stamp=$(date +%Y%m%d_%H%M%S)
    for name in "${NAMES[@]}"; do
        local output=$OUTPUT_ROOT/$name/$stamp gpus=${GPUS_OF[$name]}
        local port=$((FIRST_PORT + ${gpus%%,*})) job=$OUTPUT_ROOT/$name.job
        echo "== $name: GPUs $gpus, ${CHANGES[$name]:-the recipe as it is}"
        [[ ${DRY_RUN:-0} != 0 ]] || printf '%s\n' "gpus=$gpus" "log=$output.log" "output=$output" >"$job"
        FOREGROUND=0 DEVICE=$DEVICE GPUS=$gpus OUTPUT=$output LOG=$output.log PID_FILE=$OUTPUT_ROOT/$name.pid \
            MASTER_PORT=$port EXTRA="${EXTRA:-} ${CHANGES[$name]}" "$LAUNCHER" 8>&- </dev/null || failed=$?
    done
    return "$failed"
}

show_status() {
    local name pid state log
    printf '%-16s %-10s %-9s %-14s %s\n' JOB GPUS PID STATE LOG
    for name in $(known_jobs); do
        log=$(fact "$name" log) pid=$(leader "$name") || pid=-
        state=$(tail -n 1 "$log" 2>/dev/null | grep -o 'exit code [0-9]*$') || state='no exit code'
        [[ -z $(processes "$OUTPUT_ROOT/$name.pid") ]] || state=running
        printf '%-16s %-10s %-9s %-14s %s\n' "$name" "$(fact "$name" gpus)" "$pid" "$state" "$log"
    done
}

stop_jobs() {
    local name pid file left second names
    (($# > 0)) || mapfile -t names < <(known_jobs)
    (($# == 0)) || names=("$@")
    for name in "${names[@]}"; do
        file=$OUTPUT_ROOT/$name.pid
        [[ -f $OUTPUT_ROOT/$name.job ]] || refuse "no job $name was started" "See: $0 status"
        left=$(processes "$file")
        [[ -n $left ]] || { echo "$name: not running" && continue; }
        pid=$(leader "$name") && left=-$pid # the whole process group
        # shellcheck disable=SC2086 # one word per process
        kill -TERM -- $left 2>/dev/null || true
        for ((second = 0; second < STOP_SECONDS * 5; second++)); do
            [[ -n $(processes "$file") ]] || break
            sleep 0.2
        done
        left=$(processes "$file")
        if [[ -n $left ]]; then
            echo "$name: still there after $STOP_SECONDS s, killing it"
            # shellcheck disable=SC2086
            kill -KILL $left 2>/dev/null || true
        fi
        echo "$name: stopped"
    done
}

case ${1:-start} in
    start) start_jobs "${@:2}" ;;
    status) show_status ;;
    stop) stop_jobs "${@:2}" ;;
    *) refuse "there is no command $1" "Use: start [JOB ...], status, or stop [JOB ...]" ;;
esac
