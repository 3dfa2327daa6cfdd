"""One process that trains the same two steps under every kind of DeepSpeed's ZeRO and prints how far each ended off.

Run as ``python zero_stages.py RECIPE.json CASES.json``: a case is ``{"zero": ..., "deepspeed": ..., "recipe": ...}``,
``zero: null`` is a run without DeepSpeed. Printed is one JSON line with the path of each case's weights.
"""

import json
import os
import socket
import sys
from pathlib import Path


def fresh_state() -> None:
    """Forget what the run before has set for the whole process; DeepSpeed keeps its process group for good."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    AcceleratorState._reset_state()
    GradientState._reset_state()
    unset_hf_deepspeed_config()


def main(recipe_file: str, cases_file: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(one, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, DS_ACCELERATOR="cpu")
    import torch
    from llamafactory.train.tuner import run_exp

    torch.distributed.destroy_process_group = lambda *args, **kwargs: None  # the next run uses it, too
    recipe, found = json.loads(Path(recipe_file).read_text()), {}
    for name, case in json.loads(Path(cases_file).read_text()).items():
        out = Path(recipe["output_dir"]) / name
        run = {**recipe, **case.get("recipe", {}), "output_dir": str(out)}
        if case["zero"] is not None:
            automatic = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
            run["deepspeed"] = {
                **{key: "auto" for key in (*automatic, "gradient_clipping")},
                "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own would be compiled first
                "zero_optimization": {
                    "reduce_bucket_size": 20_000,  # several buckets, and tensors that are larger than one
                    "stage3_gather_16bit_weights_on_model_save": True,
                    **case["zero"],
                },
                **case.get("deepspeed", {}),
            }

        fresh_state()
        try:
            run_exp(run)
            found[name] = str(out / "model.safetensors")
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    print("FOUND", json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
