"""``key=value`` may stand before or behind the options of a command."""

import pytest

from llamafactory_chatts import cli
from llamafactory_chatts.commands import plan


@pytest.mark.parametrize(
    "words",
    [
        ["r.yaml", "a=1", "b=2", "--gpu", "A10"],
        ["r.yaml", "--gpu", "A10", "a=1", "b=2"],
        ["--gpu", "A10", "r.yaml", "a=1", "b=2"],
        ["r.yaml", "a=1", "--gpu", "A10", "b=2"],
    ],
)
def test_order_does_not_matter(words, monkeypatch):
    seen = []
    monkeypatch.setattr(plan, "run", lambda args: seen.append(args) or 0)
    assert cli.main(["plan", *words]) == 0
    (args,) = seen
    assert (args.recipe, args.settings, args.gpu) == ("r.yaml", ["a=1", "b=2"], "A10")


def test_a_type_error_of_a_command_is_not_swallowed(monkeypatch):
    def run(args):
        raise TypeError("its own")

    monkeypatch.setattr(plan, "run", run)
    with pytest.raises(TypeError, match="its own"):
        cli.main(["plan", "r.yaml"])
