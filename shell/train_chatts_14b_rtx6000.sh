#!/usr/bin/env bash
# ChatTS-14B, LoRA rank 16 in bf16, DDP on two cards of 48 GB.
# needs   GPUs with bf16 and 48 GB (RTX 6000 Ada, RTX A6000); the Quadro RTX 6000 of 24 GB has neither
# memory  33.8 GiB of a card, 4.7 GiB of the host
# time    40 s for the 240 demo rows; memory and time of yours: lmf-chatts plan RECIPE --gpu "RTX 6000 Ada x2"
# use     GPUS=1 MODEL=DIR DATASET_DIR=DIR DATASET=NAME shell/train_chatts_14b_rtx6000.sh [key=value ...]
#         DRY_RUN=1 shows the command, key=value changes a setting of the recipe; more: docs/launchers.md
set -euo pipefail
cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository
type lmf-chatts >/dev/null || { echo "Activate the environment that LLaMA-Factory is installed in" >&2 && exit 2; }

### what to run: edit it here, or set it from outside
NNODES=${NNODES:-1}                                       # machines; start it on each, OUTPUT on a shared disk
NODE_RANK=${NODE_RANK:-0} MASTER_ADDR=${MASTER_ADDR:-127.0.0.1} # 0, 1, ...; the first one's address
GPUS=${GPUS:-0,1}                                         # as nvidia-smi numbers them; one process each
MODEL=${MODEL:-bytedance-research/ChatTS-14B}             # folder or name on a hub
RECIPE=${RECIPE:-examples/train_chatts_14b_rtx6000.yaml}
DATASET_DIR=${DATASET_DIR:-dataset_info}                  # folder of dataset_info.json
DATASET=${DATASET:-chatts_demo}                           # names in it, commas between
NODE=; ((NNODES == 1)) || { NODE=.node$NODE_RANK && : "${OUTPUT:?must be set, and be the same on each machine}"; }
OUTPUT=${OUTPUT:-saves/chatts-14b/lora_r16/$(date +%Y%m%d_%H%M%S)} # an earlier run's folder resumes it
LOG=${LOG:-$OUTPUT$NODE.log}
PID_FILE=${PID_FILE:-$OUTPUT$NODE.pid}
MASTER_PORT=${MASTER_PORT:-$((${GPUS%%[^0-9]*} + 29500))} # first GPU + 29500: runs on other GPUs do not meet
DEVICE=${DEVICE:-cuda}                                    # cpu: no GPU, no 16 bits
read -r -a MORE <<<"${EXTRA:-}"                           # EXTRA='max_steps=100 seed=1': more settings

### the command; lmf-chatts run gives it a log, a PID file, and a life beyond the terminal
exec lmf-chatts run --gpus "$GPUS" --port "$MASTER_PORT" --device "$DEVICE" --log "$LOG" --pid-file "$PID_FILE" -- \
    torchrun --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$(wc -w <<<"${GPUS//,/ }")" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" -m llamafactory.launcher \
    "$RECIPE" model_name_or_path="$MODEL" output_dir="$OUTPUT" \
    dataset_dir="$DATASET_DIR" dataset="$DATASET" "${MORE[@]}" "$@"
