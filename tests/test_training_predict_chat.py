"""Prediction and chat through LLaMA-Factory reach the encoder; text-only messages work, too."""

import json
import sys

import pytest
import warm
from training_runs import environment, settings


pytestmark = pytest.mark.slow

PREDICT = """
import json, sys
from llamafactory_chatts.model.modeling_chatts import TimeSeriesForCausalLM as Model
from llamafactory.train.tuner import run_exp

seen, original = [], Model.encode_timeseries
def spy(self, *args):
    features, counts = original(self, *args)
    seen.append(counts.tolist())
    return features, counts
Model.encode_timeseries = spy
run_exp(json.load(open(sys.argv[1])))
print("SEEN", json.dumps(seen))
"""

CHAT = """
import json, sys
from llamafactory_chatts.model.modeling_chatts import TimeSeriesForCausalLM as Model
from llamafactory.chat import ChatModel

seen, original = [], Model.encode_timeseries
def spy(self, *args):
    features, counts = original(self, *args)
    seen.append(counts.tolist())
    return features, counts
Model.encode_timeseries = spy
model = ChatModel(json.load(open(sys.argv[1])))
ask = lambda text, **kwargs: model.chat([{"role": "user", "content": text}], **kwargs)[0].prompt_length
lengths = [ask("hello"), ask("look at <ts><ts/> and <ts><ts/>", audios=[[1.0] * 40, [2.0] * 9]), ask("look", audios=[[1.0] * 40])]
print("SEEN", json.dumps([lengths, seen]))
"""  # noqa: E501


def run(script: str, recipe: dict, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    done = warm.run([sys.executable, "-c", script, path], environment())
    lines = [line for line in done.stdout.splitlines() if "SEEN " in line]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].split("SEEN ")[1])


def test_predictions_see_the_series(tiny_base, data_dir, plant_rows, tmp_path):
    pytest.importorskip("jieba"), pytest.importorskip("nltk"), pytest.importorskip("rouge_chinese")
    recipe = settings(tiny_base, data_dir, tmp_path / "out", do_train=False, do_predict=True)
    recipe |= {"predict_with_generate": True, "eval_dataset": "series", "max_new_tokens": 3}
    recipe |= {"per_device_eval_batch_size": 4, "do_sample": False}
    del recipe["dataset"], recipe["max_steps"]
    seen = run(PREDICT, recipe, tmp_path)
    expected = [-(-len(series) // 8) for row in plant_rows for series in row["timeseries"]]
    assert [count for batch in seen for count in batch] == expected  # once each: the cache is used afterwards
    lines = (tmp_path / "out" / "generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["label"].strip() for line in lines] == [row["output"] for row in plant_rows]


def test_chat_takes_text_and_series(tiny_base, tmp_path):
    recipe = {"model_name_or_path": str(tiny_base), "template": "chatts", "max_new_tokens": 3, "do_sample": False}
    lengths, seen = run(CHAT, {**recipe, "infer_backend": "huggingface"}, tmp_path)
    assert seen == [[5, 2], [5]]
    assert lengths[0] < lengths[2] < lengths[1]
