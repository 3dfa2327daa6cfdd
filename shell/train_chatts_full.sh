#!/usr/bin/env bash
# ChatTS-8B, full tuning in two stages, ZeRO-3: align (the encoder alone), then SFT (everything).
# needs   deepspeed and a node of A100 or H100
# memory  22.1 GiB of a card, 34 GiB of the host
# time    3 min for the 240 demo rows; memory and time of yours: lmf-chatts plan RECIPE --gpu "A100 80GB x8"
# use     GPUS=1 MODEL=DIR DATASET_DIR=DIR DATASET=NAME shell/train_chatts_full.sh [key=value ...]
#         DRY_RUN=1 shows the command, key=value changes a setting of the recipe; more: docs/launchers.md
set -euo pipefail
cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository
type lmf-chatts >/dev/null || { echo "Activate the environment that LLaMA-Factory is installed in" >&2 && exit 2; }

### what to run: edit it here, or set it from outside
NNODES=${NNODES:-1}                                       # machines; start it on each, OUTPUT on a shared disk
NODE_RANK=${NODE_RANK:-0} MASTER_ADDR=${MASTER_ADDR:-127.0.0.1} # 0, 1, ...; the first one's address
GPUS=${GPUS:-0,1,2,3,4,5,6,7}                             # as nvidia-smi numbers them; one process each
MODEL=${MODEL:-bytedance-research/ChatTS-8B}              # folder or name on a hub
STAGES=${STAGES:-align sft}                               # align | sft | align sft; sft alone starts from MODEL
ALIGN_RECIPE=${ALIGN_RECIPE:-examples/train_chatts_full_align.yaml}
RECIPE=${RECIPE:-examples/train_chatts_full.yaml}
DATASET_DIR=${DATASET_DIR:-dataset_info} DATASET=${DATASET:-chatts_demo} # folder of dataset_info.json, names in it
NODE=; ((NNODES == 1)) || { NODE=.node$NODE_RANK && : "${OUTPUT:?must be set, and be the same on each machine}"; }
OUTPUT=${OUTPUT:-saves/chatts-8b/full/$(date +%Y%m%d_%H%M%S)} # an earlier run's folder resumes it
LOG=${LOG:-$OUTPUT$NODE.log} PID_FILE=${PID_FILE:-$OUTPUT$NODE.pid}
MASTER_PORT=${MASTER_PORT:-$((${GPUS%%[^0-9]*} + 29500))} # first GPU + 29500: runs on other GPUs do not meet
DEVICE=${DEVICE:-cuda}                                    # cpu: no GPU, no 16 bits
read -r -a MORE <<<"${EXTRA:-}"                           # EXTRA='max_steps=100 seed=1': more settings

### the commands; lmf-chatts run gives them a log, a PID file, and a life beyond the terminal
TRAIN=(deepspeed --include "localhost:$GPUS" --master_port "$MASTER_PORT" --no_local_rank --module)
((NNODES == 1)) || # each machine starts its own processes: no ssh between them
    TRAIN=(torchrun --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$(wc -w <<<"${GPUS//,/ }")"
        --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" -m)
MORE=(dataset_dir="$DATASET_DIR" dataset="$DATASET" "${MORE[@]}" "$@")
ALIGN=("${TRAIN[@]}" llamafactory.launcher "$ALIGN_RECIPE"
    model_name_or_path="$MODEL" output_dir="$OUTPUT/align" "${MORE[@]}")
[[ $STAGES == sft ]] || MODEL=$OUTPUT/align
SFT=("${TRAIN[@]}" llamafactory.launcher "$RECIPE" model_name_or_path="$MODEL" output_dir="$OUTPUT/sft" "${MORE[@]}")
case $STAGES in
    align) COMMANDS=("${ALIGN[@]}") ;;
    sft) COMMANDS=("${SFT[@]}") ;;
    "align sft") COMMANDS=("${ALIGN[@]}" --then "${SFT[@]}") ;;
    *) echo "STAGES=$STAGES: write align, sft, or 'align sft'" >&2 && exit 2 ;;
esac
exec lmf-chatts run --gpus "$GPUS" --port "$MASTER_PORT" --device "$DEVICE" --log "$LOG" --pid-file "$PID_FILE" \
    --wait-for "$OUTPUT/align/trainer_state.json" -- "${COMMANDS[@]}"
