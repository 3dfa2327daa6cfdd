"""Errors of the user's own code are shown with their place; no rule about the host or the data claims them."""

import pytest

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log


OWN = '  File "/home/user/proj/load.py", line 12, in read_rows\n    x = y\n'
PANDAS = '  File "/opt/conda/lib/python3.11/site-packages/pandas/core/indexes/base.py", line 3805, in get_loc\n    y\n'


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        (OWN, "KeyError: 'label'"),
        (OWN + PANDAS, "KeyError: 'value'"),
        (OWN, "TypeError: window() got an unexpected keyword argument 'stride'"),
        (OWN, "AttributeError: 'MyModel' object has no attribute 'foo'"),
        (OWN, "AttributeError: 'NoneType' object has no attribute 'split'"),
        (OWN, "ValueError: could not convert string to float: 'n/a'"),
        (OWN + PANDAS, "ValueError: Input contains NaN."),
        (OWN, "RuntimeError: the model needs the weights first"),
        (OWN, "ZeroDivisionError: float division by zero"),
        (OWN, "AssertionError"),
    ],
)
def test_no_cause_is_named_and_the_line_is_shown(tmp_path, frames, error):
    path = tmp_path / "run.log"
    path.write_text(f"Traceback (most recent call last):\n{frames}{error}\nexit code 1\n", encoding="utf-8")
    (found,) = diagnose_log(path)
    assert found.cause.startswith("cause not recognised"), found
    assert "/home/user/proj/load.py:12" in found.cause + found.fix
