"""Estimated time against speeds measured on an H200 (samples a second; 16 rows per optimizer step)."""

from pathlib import Path

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.plan.memory.base_model import read_base
from llamafactory_chatts.plan.report import duration
from llamafactory_chatts.plan.run_time import estimate_time, read_speed
from llamafactory_chatts.plan.steps import count_steps
from llamafactory_chatts.recipe.machine.planned import Machine, find_card
from llamafactory_chatts.recipe.reading import Recipe


LIGER, QLORA, FREE = {"enable_liger_kernel": True}, {"quantization_bit": 4}, {"disable_gradient_checkpointing": True}
MEASURED = [
    # base, passes of a step, tokens a row, settings, samples a second
    ("8B", 16, 367, {}, 6.38),
    ("8B", 1, 367, {}, 24.7),
    ("8B", 4, 367, LIGER | FREE, 36.5),
    ("8B", 1, 367, LIGER | FREE, 47.6),
    ("8B", 16, 367, QLORA, 4.25),
    ("8B", 1, 367, LIGER | QLORA, 31.5),
    ("8B", 6, 1920, LIGER | FREE, 8.58),
    ("14B", 16, 367, QLORA, 3.64),
    ("14B", 4, 367, LIGER | QLORA, 12.0),
    ("14B", 8, 866, LIGER | QLORA, 6.03),
    ("8B", 1, 367, LIGER | {"finetuning_type": "full", "pure_bf16": True}, 23.5),
]


def estimate(base, passes, tokens, settings, card="H200", speed=None):
    common = {"model_name_or_path": f"bytedance-research/ChatTS-{base}", "lora_target": "q_proj,k_proj,v_proj"}
    recipe = Recipe({**common, "bf16": True, **settings}, Path("r.yaml"))
    steps = count_steps(417, 1, 16)
    machine = Machine(find_card(card) if card else None)
    return estimate_time(recipe, read_base(recipe), machine, steps, passes, tokens, 21, speed)


@pytest.mark.parametrize(("base", "passes", "tokens", "settings", "measured"), MEASURED)
def test_within_a_third_of_what_was_measured(base, passes, tokens, settings, measured):
    found = estimate(base, passes, tokens, settings)
    assert found.samples_per_second == pytest.approx(measured, rel=0.35) and "estimated" in found.source


def test_a_slower_card_takes_longer():
    assert estimate("8B", 4, 367, QLORA, "RTX 3060").seconds > 10 * estimate("8B", 4, 367, QLORA, "H100").seconds


def test_a_measured_speed_wins(tmp_path):
    found = estimate("8B", 4, 367, {}, None, speed=2.0)
    assert found.seconds == 27 * 3 * 16 / 2.0 and "measured" in found.source
    assert estimate("8B", 4, 367, {}, None) is None


def test_speeds_that_are_none(tmp_path):
    for text in ("0", "nan", "-1", str(tmp_path)):
        with pytest.raises(ChatTSError, match="--speed"):
            read_speed(text)


def test_a_time_as_people_say_it():
    assert [duration(s) for s in (12, 600, 12000)] == ["12 s", "10 min", "3 h 20 min"]
