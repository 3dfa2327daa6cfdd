#!/usr/bin/env bash
# ChatTS-14B, LoRA in fp16 with DeepSpeed ZeRO-3, weights and optimizer in host memory.
# needs   deepspeed, GPUs of 11 GB and up (RTX 2080 Ti x2, RTX 3090, A100), 54 GiB of free host memory
# use     shell/train_chatts_tune.sh [key=value ...]         key=value changes a setting of the recipe
#         GPUS=1 MODEL=DIR DATASET_DIR=DIR DATASET=NAME shell/train_chatts_tune.sh max_steps=100
#         DRY_RUN=1 shows the command, FOREGROUND=0 returns at once, PREFLIGHT=0 skips the checks
# more    docs/launchers.md
# made by shell/generate.py from shell/launchers.yaml: change the table, then `make launchers`
# shellcheck disable=SC2034,SC2329 # some are used by name
set -euo pipefail
cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository

### what to run
GPUS=${GPUS:-0,1}                                 # as nvidia-smi numbers them; DEVICE=cpu: one process each
MODEL=${MODEL:-bytedance-research/ChatTS-14B}     # folder or name on a hub
DATASET_DIR=${DATASET_DIR:-dataset_info}          # folder of dataset_info.json
DATASET=${DATASET:-chatts_demo}                   # names in it, commas between
OUTPUT=${OUTPUT:-saves/chatts-14b/lora_zero3/$(date +%Y%m%d_%H%M%S)} # an earlier run's folder resumes it
LOG=${LOG:-$OUTPUT.log}
PID_FILE=${PID_FILE:-$OUTPUT.pid}
MASTER_PORT=${MASTER_PORT:-}                      # empty: 29500 + first GPU: runs on other GPUs do not meet
DEVICE=${DEVICE:-cuda}                            # cpu: no GPU, no 16 bits
EXTRA=${EXTRA:-}                                  # more settings: 'max_steps=100 learning_rate=5.0e-5'
RECIPE=${RECIPE:-examples/train_chatts_tune.yaml}
NODE_RANK=0
PROGRAM=deepspeed

### what follows from them
if ! [[ $GPUS =~ ^[0-9]+(,[0-9]+)*$ ]]; then
    echo "GPUS=$GPUS: write the numbers that nvidia-smi shows, as in GPUS=0,1" >&2
    exit 2
fi
IFS=, read -r -a GPU_IDS <<<"$GPUS"
PROCESSES=${#GPU_IDS[@]}
MASTER_PORT=${MASTER_PORT:-$((29500 + GPU_IDS[0]))}
ENVIRONMENT=(PYTHONUNBUFFERED=1 "MASTER_PORT=$MASTER_PORT")
SETTINGS=("dataset_dir=$DATASET_DIR" "dataset=$DATASET")
if [[ $DEVICE == cpu ]]; then
    ENVIRONMENT+=(CUDA_VISIBLE_DEVICES= DS_ACCELERATOR=cpu "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}")
    SETTINGS+=(bf16=false fp16=false use_unsloth_gc=false)
    case $PROGRAM in # with use_cpu the host leaves DeepSpeed out; hiding the GPUs does it there
        llamafactory-cli) SETTINGS+=(use_cpu=true) ;;
        torchrun) SETTINGS+=(use_cpu=true ddp_backend=gloo) ;;
    esac
else
    ENVIRONMENT+=("CUDA_VISIBLE_DEVICES=$GPUS")
    ENVIRONMENT+=("PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}") # less lost to holes
fi
read -r -a WORDS <<<"$EXTRA"
SETTINGS+=("${WORDS[@]}" "$@")
declare -A NEEDS=()

### the command
WHERE=(--include "localhost:$GPUS")
if [[ $DEVICE == cpu ]]; then WHERE=(--num_accelerators "$PROCESSES"); fi
COMMAND=(deepspeed "${WHERE[@]}" --master_port "$MASTER_PORT" --no_local_rank
    --module llamafactory.launcher
    "$RECIPE" "model_name_or_path=$MODEL" "output_dir=$OUTPUT" "${SETTINGS[@]}")
STEPS=(COMMAND) RECIPES=("$RECIPE")

### from here on every launcher is the same: checks, preflight, a run that outlives the terminal, log, PID file
RUN=$(realpath -m "$PID_FILE") # mark of this run in the environment of each of its processes

refuse() { # what is wrong, what to change
    echo "${0##*/}: $1" >&2
    echo "  to mend it: $2" >&2
    exit 2
}

quoted() { # the words as one line that can be pasted into a shell
    local word line=
    for word in "$@"; do
        [[ $word =~ ^[[:alnum:]_./:=,@%+-]+$ ]] || printf -v word %q "$word"
        line+="$word "
    done
    echo "${line% }"
}

processes() { # of this run, also those in sessions of their own (torchrun's workers) or without a parent
    grep -lsxzF -- "CHATTS_RUN=$RUN" /proc/[0-9]*/environ | cut -d/ -f3 || true
}

stamp() { # the time in front of each line; a progress bar's states become lines
    trap '' HUP INT QUIT TERM
    local LC_ALL=C line
    stdbuf -oL tr '\r' '\n' | while IFS= read -r line || [[ -n $line ]]; do
        [[ -z $line ]] || printf '%(%F %T)T %s\n' -1 "$line" || true # a full disk must not end the training
    done
}

end_leftovers() { # a worker that outlived its launcher would keep its GPU
    local left try
    for try in {1..60}; do
        left=$(processes)
        [[ -n $left ]] || return 0
        # shellcheck disable=SC2086 # one word per process
        case $try in
            10) echo "launcher: still running, ending them:" $left && kill -TERM $left 2>/dev/null ;;
            50) kill -KILL $left 2>/dev/null ;;
        esac || true
        sleep 0.2
    done
}

supervise() { # start each step, keep its exit code, write it as the last line of the log
    local pid='' code=0 stopped='' interrupted step out filter try name
    trap '' HUP INT QUIT
    trap 'stopped=1 interrupted=1; [[ -z $pid ]] || kill -TERM -- "-$pid" 2>/dev/null || true' TERM
    exec </dev/null >/dev/null 2>&1 # nothing here may hold the terminal open
    coproc STAMP { stamp >>"$LOG"; }
    out=${STAMP[1]} filter=$STAMP_PID
    exec >&"$out" 2>&1
    exec {out}>&-
    for step in "${STEPS[@]}"; do
        local -n command=$step
        for try in {1..360}; do # node 0 may still be writing what the next step reads
            [[ -n ${NEEDS[$step]:-} && ! -e ${NEEDS[$step]} && -z $stopped ]] || break
            sleep 5
        done
        [[ -z $stopped ]] || { code=143 && break; }
        echo "launcher: $(quoted "${ENVIRONMENT[@]}" "${command[@]}")"
        echo "launcher: host $HOSTNAME, GPUs $GPUS, output $OUTPUT"
        setsid env "CHATTS_RUN=$RUN" "${ENVIRONMENT[@]}" "${command[@]}" &
        pid=$!
        echo "$pid" >"$PID_FILE"
        while :; do # a signal to this shell ends `wait`, not the run
            interrupted='' code=0
            wait "$pid" || code=$?
            [[ -n $interrupted ]] || break
        done
        end_leftovers
        echo # ends a last line without an end; empty lines are left out of the log
        ((code == 0)) || break
    done
    [[ -z $stopped ]] || echo "launcher: it was asked to stop (SIGTERM)"
    if ((code > 128)) && name=$(kill -l "$code" 2>/dev/null); then echo "launcher: ended by SIG$name"; fi
    rm -f "$PID_FILE"
    echo "exit code $code"
    exec >/dev/null 2>&1
    for try in {1..50}; do # until the log is complete
        kill -0 "$filter" 2>/dev/null || break
        sleep 0.1
    done
    exit "$code"
}

if [[ -n ${DRY_RUN:-} && $DRY_RUN != 0 ]]; then
    for step in "${STEPS[@]}"; do
        declare -n line=$step
        quoted "${ENVIRONMENT[@]}" "${line[@]}"
    done
    exit 0
fi

for recipe in "${RECIPES[@]}"; do
    [[ -f $recipe ]] || refuse "$recipe is not in $PWD" "Start it in its repository, or set ROOT to that folder"
done
type "$PROGRAM" >/dev/null 2>&1 || refuse "$PROGRAM is not found" "Activate the environment it is installed in"
if [[ $DEVICE != cpu ]]; then
    known=$(nvidia-smi --query-gpu=index --format=csv,noheader) ||
        refuse "no GPU is found" "Set DEVICE=cpu to run without one"
    for id in "${GPU_IDS[@]}"; do
        grep -qx "$id" <<<"$known" || refuse "there is no GPU $id" "Set GPUS to some of: ${known//$'\n'/ }"
    done
fi
if ((NODE_RANK == 0)) && (exec 9<>"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; then
    refuse "port $MASTER_PORT is in use" "Set MASTER_PORT to a free one"
fi
[[ -z $(processes) ]] || refuse "a run of $PID_FILE is under way" "Stop it, or set OUTPUT to another folder"
if [[ ${PREFLIGHT:-1} != 0 ]]; then
    CHECK=(env "${ENVIRONMENT[@]}")
    [[ $PROGRAM == llamafactory-cli ]] || CHECK+=(FORCE_TORCHRUN=1 "NPROC_PER_NODE=$PROCESSES") # as it will be
    for recipe in "${RECIPES[@]}"; do
        "${CHECK[@]}" lmf-chatts doctor "$recipe" "model_name_or_path=$MODEL" "output_dir=$OUTPUT" "${SETTINGS[@]}" ||
            refuse "the preflight found errors in $recipe" "See above; PREFLIGHT=0 starts all the same"
    done
fi

mkdir -p "$(dirname "$LOG")" "$(dirname "$PID_FILE")"
declare -F before_start >/dev/null && before_start
: >>"$LOG"
start=$(($(stat -c %s "$LOG") + 1)) # a resumed run goes on in its log
: >"$PID_FILE"
set -m # a process group of its own: neither the terminal's end nor Ctrl-C reaches it
supervise &
supervisor=$!
set +m
trap 'exit 129' HUP
until [[ -s $PID_FILE ]] || ! kill -0 "$supervisor" 2>/dev/null; do sleep 0.1; done
pid=$(cat "$PID_FILE" 2>/dev/null || true)
echo "log  $LOG"
echo "pid  ${pid:-ended} in $PID_FILE; stop it with: kill -- -${pid:-PID}"
[[ ${FOREGROUND:-1} != 0 ]] || exit 0

presses=0
on_interrupt() { # Ctrl-C ends the run, a second one at once
    presses=$((presses + 1))
    if ((presses == 1)); then
        echo "stopping; press Ctrl-C again to kill it" >&2
        kill -TERM "$supervisor" 2>/dev/null || true
    else
        # shellcheck disable=SC2046 # one word per process
        kill -KILL $(processes) 2>/dev/null || true
    fi
}
trap on_interrupt INT TERM
tail -c "+$start" --pid="$supervisor" -f "$LOG" &
follower=$!
while :; do
    before=$presses code=0
    wait "$supervisor" || code=$?
    ((before != presses)) || break
done
wait "$follower" 2>/dev/null || true
exit "$code"
