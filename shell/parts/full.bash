LAUNCH=(deepspeed --master_port "$MASTER_PORT" --no_local_rank)
if ((NNODES > 1)); then # every machine starts its own processes, so no ssh; the names only stand for the machines
    HOSTS=$OUTPUT$NODE.hosts
    INCLUDE=$(for ((node = 0; node < NNODES; node++)); do printf '@node%d:%s' "$node" "$GPUS"; done)
    LAUNCH+=(--hostfile "$HOSTS" --include "${INCLUDE#@}" --no_ssh --node_rank "$NODE_RANK")
    LAUNCH+=(--master_addr "$MASTER_ADDR")
    before_start() {
        for ((node = 0; node < NNODES; node++)); do echo "node$node slots=1024"; done >"$HOSTS"
    }
elif [[ $DEVICE == cpu ]]; then
    LAUNCH+=(--num_accelerators "$PROCESSES")
else
    LAUNCH+=(--include "localhost:$GPUS")
fi
LAUNCH+=(--module llamafactory.launcher)
START=$MODEL
case $STAGES in
    align) STEPS=(ALIGN) RECIPES=("$ALIGN_RECIPE") ;;
    sft) STEPS=(SFT) RECIPES=("$RECIPE") ;;
    "align sft")
        STEPS=(ALIGN SFT) RECIPES=("$ALIGN_RECIPE" "$RECIPE")
        START=$OUTPUT/align
        NEEDS[SFT]=$OUTPUT/align/trainer_state.json # written last
        ;;
    *) echo "STAGES=$STAGES: write align, sft, or 'align sft'" >&2 && exit 2 ;;
esac
ALIGN=("${LAUNCH[@]}" "$ALIGN_RECIPE" "model_name_or_path=$MODEL" "output_dir=$OUTPUT/align" "${SETTINGS[@]}")
SFT=("${LAUNCH[@]}" "$RECIPE" "model_name_or_path=$START" "output_dir=$OUTPUT/sft" "${SETTINGS[@]}")
