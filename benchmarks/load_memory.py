"""Host and GPU memory while a checkpoint is loaded, and the seconds it takes; by our reader or transformers' own.

    python benchmarks/load_memory.py --model DIR --bits 4                     # ours
    python benchmarks/load_memory.py --model DIR --bits 4 --loader stock      # transformers' memory maps
    python benchmarks/load_memory.py --build 2.5 --bits 4                     # a random model of about 2.5 GB

Loads to the GPU if there is one. --build makes a model with ChatTS-8B's layers in --work and takes it away again.
Prints one JSON object. Memory in GiB: `VmHWM` is the peak of resident memory, mapped pages included, of the whole
process; `before` is what it had before the load; `RssAnon` and `RssFile` are peaks seen every 5 ms.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from multiprocessing import get_context
from pathlib import Path


GIB = 2**30
LAYER = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 12288}
LAYER_BYTES, VOCABULARY = 2 * 192_946_432, 32_000
TS = {"patch_size": 8, "num_layers": 5, "hidden_size": 4096, "max_sequence_length": 32768, "use_position_idx": False,
      "use_position_embedding": True, "embedding_dim": 16, "use_layer_norm": False}  # fmt: skip


def build(folder: str, gigabytes: float) -> None:
    """Write a random model in bfloat16, in shards of 1 GB."""
    import torch

    from llamafactory_chatts.model.configuration_chatts import Qwen3TSConfig
    from llamafactory_chatts.model.modeling_chatts import Qwen3TSForCausalLM

    layers = max(1, round((gigabytes * 1e9 - 4 * VOCABULARY * LAYER["hidden_size"]) / LAYER_BYTES))
    config = Qwen3TSConfig(
        **LAYER, head_dim=128, vocab_size=VOCABULARY, num_hidden_layers=layers, tie_word_embeddings=False,
        dtype="bfloat16", ts=TS, ts_token_start_index=VOCABULARY - 2, ts_token_end_index=VOCABULARY - 1,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen3TSForCausalLM(config).to(torch.bfloat16)

    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.normal_(std=0.02)

    model.save_pretrained(folder, max_shard_size="1GB")


def memory() -> dict[str, float]:
    """Return the memory of this process in GiB, by the names of /proc/self/status."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 / GIB for line in lines if line[0].startswith(("VmHWM", "Rss", "VmRSS"))}


def watch(peaks: dict[str, float], done: threading.Event) -> None:
    while not done.wait(0.005):
        for key, value in memory().items():
            peaks[key] = max(peaks.get(key, 0.0), value)


def measure(args: argparse.Namespace, folder: str) -> dict:
    """Load in this process; return what it took."""
    import torch
    from transformers import BitsAndBytesConfig

    from llamafactory_chatts.model import from_pretrained
    from llamafactory_chatts.model.loading import pretrained

    if args.loader == "stock":
        del pretrained.ChatTSFiles._load_pretrained_model

    wanted = {name: True for name in ("offload_embedding", "lm_head_8bit") if getattr(args, name)}
    if args.bits == 4:
        wanted["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_storage=torch.bfloat16,
        )
    elif args.bits == 8:
        wanted["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)

    cuda = torch.cuda.is_available()
    if cuda:
        torch.zeros(1, device="cuda")  # the driver's own memory is not the loader's

    before, peaks, done = memory(), {}, threading.Event()
    watcher = threading.Thread(target=watch, args=(peaks, done), daemon=True)
    watcher.start()
    start = time.perf_counter()
    model = from_pretrained(folder, dtype=torch.bfloat16, device_map={"": "cuda:0" if cuda else "cpu"}, **wanted)
    if cuda:
        torch.cuda.synchronize()

    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    after = memory()
    found = {
        "loader": args.loader,
        "bits": args.bits,
        "savings": [name for name in wanted if name != "quantization_config"],
        "checkpoint": round(sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / GIB, 3),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds, 2),
        "before": round(before["VmRSS"], 3),
        "VmHWM": round(after["VmHWM"], 3),
        **{key: round(peaks[key], 3) for key in ("RssAnon", "RssFile")},
        "after": round(after["VmRSS"], 3),
    }
    if cuda:
        found["device"] = torch.cuda.get_device_name()
        found["cuda_allocated"] = round(torch.cuda.memory_allocated() / GIB, 3)
        found["cuda_peak_allocated"] = round(torch.cuda.max_memory_allocated() / GIB, 3)
        found["cuda_peak_reserved"] = round(torch.cuda.max_memory_reserved() / GIB, 3)

    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="folder of a ChatTS checkpoint")
    source.add_argument("--build", type=float, metavar="GB", help="size of a random model to build")
    parser.add_argument("--work", help="where --build writes (default: the folder for temporary files)")
    parser.add_argument("--bits", type=int, choices=(4, 8, 16), default=16)
    parser.add_argument("--loader", choices=("ours", "stock"), default="ours")
    parser.add_argument("--offload-embedding", action="store_true")
    parser.add_argument("--lm-head-8bit", action="store_true")
    args = parser.parse_args()
    if args.model:
        print(json.dumps(measure(args, args.model)))
        return

    folder = tempfile.mkdtemp(prefix="load_memory_", dir=args.work)
    try:
        builder = get_context("spawn").Process(target=build, args=(folder, args.build))  # its memory is not ours
        builder.start()
        builder.join()
        if builder.exitcode == 0:
            print(json.dumps(measure(args, folder)))
    finally:
        shutil.rmtree(folder)

    raise SystemExit(builder.exitcode)


if __name__ == "__main__":
    main()
