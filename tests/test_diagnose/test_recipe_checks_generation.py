"""What does not go together with answers that are generated while a training evaluates."""

import pytest

from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.rules import check_recipe


GENERATES = {"predict_with_generate": True, "val_size": 0.5, "eval_strategy": "steps", "eval_steps": 1}
BEST = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture
def found(recipe, write_dataset, rows):
    write_dataset(rows(4))

    def found(**changes):
        return [item.subject for item in check_recipe(Recipe(recipe(**GENERATES, **changes)), at_start=True)]

    return found


@pytest.mark.parametrize(
    "changes, subject",
    [
        ({"compute_accuracy": True}, "compute_accuracy"),
        ({"stage": "dpo"}, "predict_with_generate"),
        ({"prediction_loss_only": True}, "prediction_loss_only"),
        (BEST, "metric_for_best_model"),
        ({**BEST, "metric_for_best_model": "eval_loss"}, "metric_for_best_model"),
        ({"save_strategy": "best"}, "metric_for_best_model"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "metric_for_best_model"),
        ({"eval_on_each_dataset": True, "do_predict": True, "eval_dataset": "data"}, "eval_on_each_dataset"),
    ],
)
def test_refused_before_anything_loads(found, changes, subject):
    assert subject in found(**changes)


@pytest.mark.parametrize("changes", [{}, {**BEST, "metric_for_best_model": "rouge-l"}, {"do_predict": True}])
def test_good_recipes(found, changes):
    assert found(**changes) == []
