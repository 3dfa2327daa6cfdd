"""The command `plan` as people call it."""

import json
import subprocess
import sys

import pytest
import yaml

from llamafactory_chatts.cli import main
from llamafactory_chatts.plan.memory import base_model
from llamafactory_chatts.recipe.machine import gpus
from llamafactory_chatts.recipe.reading import read_recipe


@pytest.fixture
def make(tmp_path, tiny_base, write_dataset, rows):
    """Return a function that writes a recipe of ChatTS-8B (sizes only) over demo rows; gives its path."""

    def write(real: bool = False, **settings) -> str:
        write_dataset(rows(24))
        recipe = {
            "model_name_or_path": str(tiny_base) if real else "bytedance-research/ChatTS-8B",
            "template": "chatts", "dataset": "data", "dataset_dir": str(tmp_path), "finetuning_type": "lora",
            "do_train": True, "output_dir": str(tmp_path / "saves"), "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4, "bf16": True, **settings,
        }  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text("# mine\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in recipe.items()))
        return str(path)

    return write


def plan(capsys, *words):
    """Return the exit code and what was printed, JSON as a dict."""
    code = main(["plan", *words])
    printed = capsys.readouterr().out
    return code, json.loads(printed) if "--json" in words else printed


def test_text(make, capsys):
    code, text = plan(capsys, make(), "--gpu", "RTX 3090 x2", "--ram", "64")
    assert code == 0
    for part in ("rows     24", "steps    3 (3 epochs; 1 an epoch)", "x 2 processes", "weights", "logits", "needed",
                 "fits", "DDP", "time", "advice", "estimated: the base is not on this machine"):  # fmt: skip
        assert part in text, part


def test_json_and_real_tokenizer(make, capsys):
    code, found = plan(capsys, make(real=True), "max_steps=7", "--gpu", "H100", "--json")
    assert code == 0 and found["fits"] is True and found["rows"]["exact"] is True
    assert found["steps"]["total"] == 7 and found["steps"]["by_max_steps"] and found["steps"]["global_batch"] == 16
    assert found["gpu_gib"]["peak"] == pytest.approx(sum(found["gpu_gib"]["parts"].values()))
    assert found["seconds"] > 0


def test_a_run_that_does_not_fit_ends_with_1(make, capsys):
    code, text = plan(capsys, make(), "--vram", "11")
    assert code == 1 and "too much" in text and "ERROR" in text


def test_host_memory_that_is_too_small_ends_with_1(make, capsys):
    code, text = plan(capsys, make(), "--gpu", "RTX 3090 x8", "--ram", "8")
    assert code == 1 and "host memory" in text


def test_bf16_on_a_card_without_it_is_an_error(make, capsys):
    code, text = plan(capsys, make(), "quantization_bit=4", "--gpu", "RTX 2080 Ti")
    assert code == 1 and "has no bf16. Set bf16: false, fp16: true" in text


def test_without_a_card_nothing_is_judged(make, capsys, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver())
    code, found = plan(capsys, make(), "--json")
    assert code == 0 and found["fits"] is None and found["seconds"] is None


def test_what_the_verdict_is_worth(make, capsys):
    """The estimate may be 10 % off: nearer than that to a card's memory it is tight, on both sides."""
    path = make()
    _, found = plan(capsys, path, "--vram", "80", "--json")
    needed = found["gpu_gib"]["needed"]
    for share, verdict, code in ((1.2, "fits", 0), (1.03, "tight", 0), (0.95, "tight", 1), (0.8, "does not fit", 1)):
        ended, found = plan(capsys, path, "--vram", f"{needed * share:.3f}", "--json")
        assert (found["verdict"], ended) == (verdict, code)
        _, text = plan(capsys, path, "--vram", f"{needed * share:.3f}")
        assert f": {verdict}, " in text and ("may be 10% off" in text) is (verdict == "tight")

    _, found = plan(capsys, path, "--vram", "80", "--ram", "2.4", "--json")
    assert found["verdict"] == "tight"


def test_a_fixed_recipe_has_more_room_than_the_error(make, capsys, tmp_path):
    words = make(per_device_train_batch_size=16, gradient_accumulation_steps=1), "--gpu", "RTX 3090"
    _, found = plan(capsys, *words, "--fix", str(tmp_path / "o.yaml"), "--json")
    assert found["after"]["verdict"] == "fits"


class TestTheMistakesThatDoctorFinds:
    def test_come_first(self, make, capsys):
        code, text = plan(capsys, make(), "lora_rnk=8", "timeseries_sft_lr=0", "--gpu", "H100")
        first, second, third = text.splitlines()[:3]
        assert code == 1 and first.startswith("ERROR    command line: lora_rnk: ") and "Write lora_rank" in first
        assert "timeseries_sft_lr" in second and "ERROR" not in third and "needed" in text

    def test_in_json(self, make, capsys):
        code, found = plan(capsys, make(finetuning_type="lora", eval_strategy="steps"), "--gpu", "H100", "--json")
        assert code == 1 and [one["subject"] for one in found["errors"]] == ["eval_strategy"] and found["verdict"]

    def test_where_nothing_can_be_planned(self, make, capsys):
        assert main(["plan", make(stage="ppo"), "--gpu", "H100"]) == 2
        printed = capsys.readouterr()
        assert "PPO is not supported" in printed.out and "ppo is not planned for" in printed.err

    def test_of_this_machine_do_not_count_for_another(self, make, capsys, monkeypatch):
        from llamafactory_chatts.recipe.launch import packages as recipe_checks_launch

        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(recipe_checks_launch, "is_installed", lambda package: package != "bitsandbytes")
        path = make(quantization_bit=4)
        assert plan(capsys, path, "--gpu", "H100")[0] == 0
        code, text = plan(capsys, path)
        assert code == 1 and "bitsandbytes is not installed" in text.splitlines()[0]


def test_measured_speed(make, capsys, tmp_path):
    path = make()
    (tmp_path / "train_results.json").write_text('{"train_samples_per_second": 4.0}')
    for speed in ("4", str(tmp_path)):
        _, found = plan(capsys, path, "--vram", "24", "--speed", speed, "--json")
        assert found["seconds"] == pytest.approx(found["steps"]["total"] * 16 / 4)


class TestFix:
    def test_a_recipe_that_fits_and_keeps_the_rows_of_a_step(self, make, capsys, tmp_path):
        source, out = make(), tmp_path / "fits.yaml"
        code, text = plan(capsys, source, "--gpu", "RTX 2080 Ti", "--fix", str(out))
        assert code == 0 and "fits.yaml" in text
        fixed = read_recipe(out)
        assert fixed["fp16"] and not fixed["bf16"] and fixed["quantization_bit"] == 4
        assert fixed["per_device_train_batch_size"] * fixed["gradient_accumulation_steps"] == 16
        assert out.read_text().startswith("# mine\n")
        code, found = plan(capsys, str(out), "--gpu", "RTX 2080 Ti", "--json")
        assert code == 0 and found["fits"] and found["steps"]["global_batch"] == 16

    def test_smaller_passes_come_before_other_weights(self, make, capsys, tmp_path):
        words = (
            make(per_device_train_batch_size=16, gradient_accumulation_steps=1),
            "disable_gradient_checkpointing=true",
        )
        _, found = plan(capsys, *words, "--gpu", "RTX 3090", "--fix", str(tmp_path / "o.yaml"), "--json")
        assert "quantization_bit" not in found["changes"] and found["after"]["fits"]
        assert found["changes"]["per_device_train_batch_size"] < 16
        assert yaml.safe_load((tmp_path / "o.yaml").read_text())["disable_gradient_checkpointing"] is True

    def test_token_budget_is_lowered(self, make, capsys, tmp_path):
        words = (make(tokens_per_batch=6000, disable_gradient_checkpointing=True), "--gpu", "RTX 3090")
        _, found = plan(capsys, *words, "--fix", str(tmp_path / "o.yaml"), "--json")
        assert 0 < found["changes"]["tokens_per_batch"] < 6000 and found["after"]["fits"]

    def test_nothing_fits(self, make, capsys, tmp_path):
        code = main(["plan", make(), "--vram", "3", "--fix", str(tmp_path / "o.yaml")])
        assert code == 2 and "the smallest way found needs" in capsys.readouterr().err
        assert not (tmp_path / "o.yaml").exists()

    def test_no_card_to_fit_to(self, make, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver())
        assert main(["plan", make(), "--fix", str(tmp_path / "o.yaml")]) == 2
        assert "--vram 24" in capsys.readouterr().err


class TestRebalance:
    @pytest.mark.parametrize(("factor", "batch", "grows"), [("2", 8, True), ("0.5", 2, False)])
    def test_says_which_way_lowers_memory(self, make, capsys, factor, batch, grows):
        path = make()
        code, text = plan(capsys, path, "--gpu", "H100", "--rebalance", factor)
        assert code == 0 and f"4 x 4 -> {batch} x {16 // batch}" in text
        assert ("memory grows this way" in text) is grows
        _, found = plan(capsys, path, "--gpu", "H100", "--rebalance", factor, "--json")
        assert (found["after"]["gpu_gib"]["peak"] > found["gpu_gib"]["peak"]) is grows
        assert found["after"]["steps"]["global_batch"] == found["steps"]["global_batch"]

    def test_numbers_that_do_not_divide(self, make, capsys):
        assert main(["plan", make(), "--gpu", "H100", "--rebalance", "3"]) == 2
        assert "Use one of: 0.25, 0.5, 2, 4" in capsys.readouterr().err

    def test_is_written_with_fix(self, make, capsys, tmp_path):
        out = tmp_path / "o.yaml"
        plan(capsys, make(), "--gpu", "H100", "--rebalance", "0.5", "--fix", str(out))
        assert read_recipe(out)["per_device_train_batch_size"] == 2


class TestAdvice:
    def advice(self, capsys, *words):
        return plan(capsys, *words, "--json")[1]["advice"]

    def test_few_rows(self, make, capsys):
        found = self.advice(capsys, make(lora_rank=64, num_train_epochs=8), "--gpu", "H100")
        texts = " ".join(item["text"] for item in found)
        assert (
            "rank 64 learns them by heart" in texts and "epochs over 24 rows overfit" in texts and "dropout" in texts
        )

    def test_rows_that_stop_a_run(self, make, capsys):
        found = self.advice(capsys, make(cutoff_len=200), "--gpu", "H100")
        assert found[0]["level"] == "error" and found[0]["changes"]["cutoff_len"] > 200

    def test_kernels_tokens_and_checkpointing(self, make, capsys):
        changes = {key for item in self.advice(capsys, make(), "--gpu", "H100") for key in item["changes"]}
        assert {"enable_liger_kernel", "tokens_per_batch", "disable_gradient_checkpointing"} <= changes

    def test_quantised_without_need(self, make, capsys):
        texts = [item["text"] for item in self.advice(capsys, make(quantization_bit=4), "--gpu", "H200")]
        assert any("16-bit weights fit as well" in text for text in texts)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens_per_batch": 900, "packing": True}, "fills passes already"),
        ({"quantization_bit": 4, "finetuning_type": "full"}, "can only be trained with adapters"),
        ({"offload_embedding": True}, "the model is not quantised"),
        ({"deepspeed": "none.json"}, "the DeepSpeed file is missing"),
        ({"tokens_per_batch": 10}, "the longest row has"),
        ({"streaming": True}, "the number of steps must be told"),
        ({"bf16": True, "fp16": True}, "fp16 and bf16 are both on"),
    ],
)
def test_settings_that_cannot_run(make, capsys, settings, said):
    assert main(["plan", make(**settings), "--gpu", "H100"]) == 2
    assert said in capsys.readouterr().err


def test_deepspeed_file(make, capsys, tmp_path):
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    (tmp_path / "z.json").write_text(json.dumps({"zero_optimization": zero}))
    words = (make(deepspeed=str(tmp_path / "z.json"), finetuning_type="full"), "--gpu", "RTX 3090 x2", "--json")
    _, found = plan(capsys, *words)
    assert "ZeRO-3, optimizer and weights in host memory" in found["host_gib"]["launcher"]
    assert found["host_gib"]["total"] > 8.26e9 * (2 + 12) / 2**30 and found["gpu_gib"]["parts"]["weights"] == 0


def test_the_hub_s_cache_is_looked_at(make, capsys, monkeypatch, tiny_base):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(tiny_base / "config.json"))
    _, found = plan(capsys, make(), "--gpu", "H100", "--json")
    assert found["rows"]["exact"] and found["base"]["parameters"] < 1e6
    assert base_model.PUBLISHED


WITHOUT_TORCH = """
import sys
from llamafactory_chatts.cli import main

try:
    main({words!r})
finally:
    print("heavy:", sorted({{"torch", "transformers", "llamafactory", "datasets"}} & set(sys.modules)))
"""


def test_neither_help_nor_a_plan_imports_torch(make):
    for words, said in (["plan", "--help"], "RTX 2080 Ti"), (["plan", make(real=True), "--gpu", "RTX 3090"], "needed"):
        script = WITHOUT_TORCH.format(words=words)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert "heavy: []" in done.stdout and said in done.stdout, done.stderr
