#!/usr/bin/env bash
# ChatTS-14B, QLoRA in fp16 on one RTX 2080 Ti, every saving switched on.
# needs   bitsandbytes and a GPU with 11 GB
# memory  10.0 GiB of a card, 4.7 GiB of the host
# time    11 min for the 240 demo rows; memory and time of yours: lmf-chatts plan RECIPE --gpu "RTX 2080 Ti"
# use     GPUS=1 MODEL=DIR DATASET_DIR=DIR DATASET=NAME shell/train_chatts_tune_qlora_safe.sh [key=value ...]
#         DRY_RUN=1 shows the command, key=value changes a setting of the recipe; more: docs/launchers.md
set -euo pipefail
cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository
type lmf-chatts >/dev/null || { echo "Activate the environment that LLaMA-Factory is installed in" >&2 && exit 2; }

### what to run: edit it here, or set it from outside
GPUS=${GPUS:-0}                                           # as nvidia-smi numbers them; one process each
MODEL=${MODEL:-bytedance-research/ChatTS-14B}             # folder or name on a hub
RECIPE=${RECIPE:-examples/train_chatts_tune_qlora_safe.yaml}
DATASET_DIR=${DATASET_DIR:-dataset_info}                  # folder of dataset_info.json
DATASET=${DATASET:-chatts_demo}                           # names in it, commas between
OUTPUT=${OUTPUT:-saves/chatts-14b/qlora_safe/$(date +%Y%m%d_%H%M%S)} # an earlier run's folder resumes it
LOG=${LOG:-$OUTPUT.log}
PID_FILE=${PID_FILE:-$OUTPUT.pid}
MASTER_PORT=${MASTER_PORT:-$((${GPUS%%[^0-9]*} + 29500))} # first GPU + 29500: runs on other GPUs do not meet
DEVICE=${DEVICE:-cuda}                                    # cpu: no GPU, no 16 bits
read -r -a MORE <<<"${EXTRA:-}"                           # EXTRA='max_steps=100 seed=1': more settings

### the command; lmf-chatts run gives it a log, a PID file, and a life beyond the terminal
exec lmf-chatts run --gpus "$GPUS" --port "$MASTER_PORT" --device "$DEVICE" --log "$LOG" --pid-file "$PID_FILE" -- \
    torchrun --nproc_per_node "$(wc -w <<<"${GPUS//,/ }")" \
    --master_addr 127.0.0.1 --master_port "$MASTER_PORT" -m llamafactory.launcher \
    "$RECIPE" model_name_or_path="$MODEL" output_dir="$OUTPUT" \
    dataset_dir="$DATASET_DIR" dataset="$DATASET" "${MORE[@]}" "$@"
