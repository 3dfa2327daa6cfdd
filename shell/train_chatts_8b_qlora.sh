#!/usr/bin/env bash
# ChatTS-8B, QLoRA on one card below 11 GB.
# needs   bitsandbytes and a GPU with 8 GB
# memory  7.4 GiB of a card, 3.5 GiB of the host
# time    12 min for the 240 demo rows; memory and time of yours: lmf-chatts plan RECIPE --gpu "RTX 3060 12GB"
# use     GPUS=1 MODEL=DIR DATASET_DIR=DIR DATASET=NAME shell/train_chatts_8b_qlora.sh [key=value ...]
#         DRY_RUN=1 shows the command, key=value changes a setting of the recipe; more: docs/launchers.md
set -euo pipefail
cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository
type lmf-chatts >/dev/null || { echo "Activate the environment that LLaMA-Factory is installed in" >&2 && exit 2; }

### what to run: edit it here, or set it from outside
GPUS=${GPUS:-0}                                           # as nvidia-smi numbers them
MODEL=${MODEL:-bytedance-research/ChatTS-8B}              # folder or name on a hub
RECIPE=${RECIPE:-examples/train_chatts_8b_qlora.yaml}
DATASET_DIR=${DATASET_DIR:-dataset_info}                  # folder of dataset_info.json
DATASET=${DATASET:-chatts_demo}                           # names in it, commas between
OUTPUT=${OUTPUT:-saves/chatts-8b/qlora/$(date +%Y%m%d_%H%M%S)} # an earlier run's folder resumes it
LOG=${LOG:-$OUTPUT.log}
PID_FILE=${PID_FILE:-$OUTPUT.pid}
MASTER_PORT=${MASTER_PORT:-$((${GPUS%%[^0-9]*} + 29500))} # first GPU + 29500: runs on other GPUs do not meet
DEVICE=${DEVICE:-cuda}                                    # cpu: no GPU, no 16 bits
read -r -a MORE <<<"${EXTRA:-}"                           # EXTRA='max_steps=100 seed=1': more settings

### the command; lmf-chatts run gives it a log, a PID file, and a life beyond the terminal
exec lmf-chatts run --gpus "$GPUS" --port "$MASTER_PORT" --device "$DEVICE" --log "$LOG" --pid-file "$PID_FILE" -- \
    llamafactory-cli train "$RECIPE" model_name_or_path="$MODEL" output_dir="$OUTPUT" \
    dataset_dir="$DATASET_DIR" dataset="$DATASET" "${MORE[@]}" "$@"
