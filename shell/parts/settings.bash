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
