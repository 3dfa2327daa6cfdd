"""Show one prediction of a tuned model beside the truth.

    python examples/predict_demo.py demo_output/base demo_output/adapter [--row 0]

Works with any ChatTS base and adapter; rows come from dataset_info/chatts_demo_eval.jsonl.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import logging

from llamafactory_chatts.core.contract import DEFAULT_SYSTEM
from llamafactory_chatts.model import from_pretrained, load_processor


EVAL = Path(__file__).parent.parent / "dataset_info" / "chatts_demo_eval.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("--row", type=int, default=0, help="row of the evaluation file, from 0")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    row = json.loads(EVAL.read_text(encoding="utf-8").splitlines()[args.row])
    processor = load_processor(args.base)
    turns = [{"role": "system", "content": DEFAULT_SYSTEM}, {"role": "user", "content": row["input"]}]
    frame = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    batch = processor(text=[frame + "<|im_start|>assistant\n"], timeseries=row["timeseries"], return_tensors="pt")

    model = PeftModel.from_pretrained(from_pretrained(args.base), args.adapter).eval()
    with torch.no_grad():
        output = model.generate(**batch, max_new_tokens=args.max_new_tokens, do_sample=False)

    answer = processor.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    lengths = ", ".join(str(len(series)) for series in row["timeseries"])
    print(f"\nprompt      {row['input'].splitlines()[0][:90]} ... (series of {lengths} points)")
    print(f"truth       {row['output']}")
    print(f"prediction  {answer.strip()}")


if __name__ == "__main__":
    main()
