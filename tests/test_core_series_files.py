"""Series files that a dataset cell points to: read as prepare reads them, but nothing in them is forgiven."""

import numpy as np
import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.files.series_files import read_series_file


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, encoding="utf-8", name="泵.csv"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return [series.tolist() for series in read_series_file(str(tmp_path / name))]

    return write_and_read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
@pytest.mark.parametrize(
    "text", ["时间,value\n早,1.5\n晚,2\n", "时间;value\n早;1,5\n晚;2\n", "时间\tvalue\n早\t1,5\n晚\t2\n"]
)
def test_what_prepare_reads(read, encoding, text):
    assert read(text, encoding) == [[1.5, 2.0]]


def test_rows_stay_as_they_are(read):
    assert read("time,value\n2024-01-02,1\n2024-01-01,2\n") == [[1.0, 2.0]]


def test_a_row_number_without_a_name_is_no_series(read):
    assert read(",a,b\n0,5,7\n1,6,8\n") == [[5.0, 6.0], [7.0, 8.0]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,value\n1,2\n1,2,3\n", "the series file 泵.csv:3 cannot be read: a line has 3 cells instead of 2"),
        ("value,value\n1,2\n", "the series file 泵.csv:1 cannot be read: the header names 'value' twice"),
        ("", "the series file 泵.csv cannot be read: the file is empty"),
        ("value\n", "the series file 泵.csv has no numeric column"),
        ("time,value\n2024-01-01,1\n2024-01-02,x\n", r"泵.csv, column value: a series holds str at point 1 \(x\)"),
        ("time,value\n2024-01-01,1\n2024-01-02,\n", "泵.csv, column value: a series holds NaN at point 1"),
        ("value\n1\n1e400\n", "泵.csv, column value: a series holds an infinite value at point 1"),
    ],
)
def test_refused(read, text, message):
    with pytest.raises(ChatTSError, match=message):
        read(text)


def test_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]]))
    assert [series.tolist() for series in read_series_file(str(tmp_path / "a.npy"))] == [[1.0, 2.0], [3.0, 4.0]]
