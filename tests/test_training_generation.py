"""Generation while a training evaluates gives what a prediction run with the same weights gives."""

import copy
import json

import pytest


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a dataset of four rows of unequal lengths, one of them text only."""
    from llamafactory_chatts.data.synthesize.demo import generate

    path = tmp_path_factory.mktemp("generation")
    rows = [{"input": "Say hello to everybody", "output": "hello", "timeseries": []}, *generate(3, 0, 32, 64)]
    (path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "dataset_info.json").write_text(json.dumps({"data": {"file_name": "data.jsonl", "formatting": "chatts"}}))
    return path


def settings(base, folder, output, **changes):
    """A recipe that generates greedily, at most seven tokens."""
    return {
        "model_name_or_path": str(base),
        "stage": "sft",
        "template": "chatts",
        "finetuning_type": "lora",
        "dataset_dir": str(folder),
        "eval_dataset": "data",
        "cutoff_len": 1024,
        "predict_with_generate": True,
        "max_new_tokens": 7,
        "do_sample": False,
        "per_device_eval_batch_size": 3,
        "output_dir": str(output),
        "report_to": "none",
        "use_cpu": True,
        **changes,
    }


def training(base, folder, output, **changes):
    """The same recipe, training for two steps and evaluating after each."""
    own = {"do_train": True, "dataset": "data", "max_steps": 2, "learning_rate": 1e-2, "save_strategy": "no"}
    own |= {"per_device_train_batch_size": 2, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1}
    return settings(base, folder, output, **own, **changes)


def run(recipe):
    """Run a recipe; return what each evaluation generated after each prompt, and how often series were read."""
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer as Trainer
    from llamafactory.train.tuner import run_exp

    from llamafactory_chatts.model.modeling_chatts import TimeSeriesForCausalLM as Model

    seen, calls = [], []
    step, loop, encode = Trainer.prediction_step, Trainer.evaluation_loop, Model.encode_timeseries

    def evaluation_loop(self, *args, **kwargs):
        seen.append({})
        return loop(self, *args, **kwargs)

    def encode_timeseries(self, *args, **kwargs):
        calls.append(self.training)
        return encode(self, *args, **kwargs)

    def prediction_step(self, model, inputs, *args, **kwargs):
        prompts = [
            tuple(ids[mask.bool()].tolist()) for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"])
        ]
        loss, generated, labels = step(self, model, inputs, *args, **kwargs)
        width = inputs["input_ids"].shape[1]
        seen[-1].update(zip(prompts, generated[:, width:].tolist(), strict=True))
        return loss, generated, labels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "prediction_step", prediction_step)
        patch.setattr(Trainer, "evaluation_loop", evaluation_loop)
        patch.setattr(Model, "encode_timeseries", encode_timeseries)
        run_exp(copy.deepcopy(recipe))

    return seen, calls.count(False)


@pytest.fixture(scope="module")
def trained(tiny_base, folder):
    """Return the adapter's folder and the run of a training that ends with an evaluation and a prediction."""
    output = folder / "trained"
    return output, run(training(tiny_base, folder, output, do_eval=True, do_predict=True))


def test_equal_to_a_prediction_run(tiny_base, folder, trained):
    output, (seen, _) = trained
    (predicted,), _ = run(
        settings(tiny_base, folder, folder / "predicted", do_predict=True, adapter_name_or_path=str(output))
    )
    assert len(predicted) == 4 and all(len(tokens) <= 7 for tokens in predicted.values())
    first, second, evaluated, own = seen
    assert second == predicted and evaluated == predicted and own == predicted
    assert first.keys() == predicted.keys() and first != predicted  # other weights, the same prompts


def test_series_are_read_once_a_batch(trained):
    """The cache is used although the training switched it off: two batches in each of four evaluations."""
    assert trained[1][1] == 4 * 2
