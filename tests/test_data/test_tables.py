"""Series files of every kind, and what is said about those that cannot be read."""

import errno
import os
import sys
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.files.tables import read_table


NAN = float("nan")
TIMES = ["2024-01-01 00:00:00", "2024-01-01 00:05:00", "2024-01-01 00:10:00"]


@pytest.fixture
def read(tmp_path):
    """Return a function: write text (or bytes) into a file and read it as a table."""

    def write_and_read(content, name="泵1.csv", encoding="utf-8", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return read_table(path, **options)

    return write_and_read


def check(table, **series):
    assert table.names == list(series)
    for found, expected in zip(table.values, series.values()):
        assert found.dtype == np.float64 and found.ndim == 1
        np.testing.assert_array_equal(found, expected)


class TestText:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"])
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_encodings_separators_and_line_ends(self, read, encoding, separator, end):
        lines = [separator.join(cells) for cells in (("时间", "温度", "备注"), ("a", "1.5", "高"), ("b", "-2", "低"))]
        table = read(end.join(lines) + end, encoding=encoding)
        check(table, 温度=[1.5, -2.0])
        assert table.how["separator"] == separator and table.bad_cells == 0
        assert table.how["encoding"] == {"gbk": "gb18030"}.get(encoding, encoding)

    @pytest.mark.parametrize(
        "text, decimal, expected",
        [
            ("t;value\n1;1,5\n2;-0,25\n3;2\n", None, [1.5, -0.25, 2.0]),
            ("t\tvalue\n1\t1,5e3\n2\t,5\n", None, [1500.0, 0.5]),
            ("t;value\n1;1.5\n2;2\n", None, [1.5, 2.0]),
            ('t,value\n1,"1,5"\n2,"2,5"\n', ",", [1.5, 2.5]),
            ("value\n1,5\n2,5\n", ",", [1.5, 2.5]),
            ("t;value\n" + "1;7\n" * 30_000 + "2;1,5\n", None, [7.0] * 30_000 + [1.5]),  # behind what is sniffed
            ("Druck, bar;Temp, C\n1,5;2,5\n", None, None),
        ],
    )
    def test_decimal_commas(self, read, text, decimal, expected):
        table = read(text, decimal=decimal)
        if expected is None:
            check(table, **{"Druck, bar": [1.5], "Temp, C": [2.5]})
        else:
            check(table, value=expected)

        assert table.bad_cells == 0

    def test_a_comma_next_to_points_is_no_decimal_comma(self, read):
        table = read("t;value\n1;1.5\n2;2,5\n3;3.5\n")
        check(table, value=[1.5, NAN, 3.5])
        assert table.bad_cells == 1 and table.bad_example == "line 3, column 'value': '2,5'"

    def test_nothing_is_read_as_thousands(self, read):
        table = read("t;value\n1;1.234,5\n2;2,5\n3;1_000\n")
        check(table, value=[NAN, 2.5, NAN])
        assert table.bad_cells == 2 and "'1.234,5'" in table.bad_example

    def test_value_alone_or_every_column_of_numbers(self, read):
        check(read("id,Value,other\n1,5,9\n2,6,9\n"), Value=[5.0, 6.0])
        check(read("a,name,b\n1,x,4\n2,y,5\n"), a=[1.0, 2.0], b=[4.0, 5.0])
        check(read("a,value,Value\n1,5,9\n"), value=[5.0])

    def test_columns_by_name_and_number(self, read):
        text = "a,温度 ,c\n1,4,7\n2,5,8\n"
        check(read(text, columns=["c", "a"]), c=[7.0, 8.0], a=[1.0, 2.0])
        check(read(text, columns=["C", "温度"]), c=[7.0, 8.0], 温度=[4.0, 5.0])
        check(read(text, columns=[1]), 温度=[4.0, 5.0])

    def test_a_decomposed_name_is_found(self, read):
        assert read("Cafe\u0301,b\n1,2\n", columns=["Caf\u00e9"]).values[0].tolist() == [1.0]

    def test_gaps_are_nan_and_not_bad(self, read):
        table = read("time,value\n1,5\n2,\n3,NaN\n4,NA\n5, \n6,null\n7,8\n")
        check(table, value=[5, NAN, NAN, NAN, NAN, NAN, 8])
        assert table.bad_cells == 0 and table.bad_example is None

    def test_text_in_numbers_is_counted_with_its_line(self, read):
        table = read("time,value\n1,5\n2,bad\n3,7\n4,断线\n")
        check(table, value=[5, NAN, 7, NAN])
        assert (table.bad_cells, table.bad_example) == (2, "line 3, column 'value': 'bad'")

    def test_a_header_in_the_middle_is_counted(self, read):
        table = read("time,value\n1,5\ntime,value\n2,6\n")
        assert table.bad_cells == 1 and table.bad_example == "line 3, column 'value': 'value'"

    def test_true_is_no_number(self, read):
        assert read("time,value\n1,true\n2,3\n").bad_cells == 1

    def test_mostly_text_is_no_series(self, read):
        check(read("a,code\n1,7\n2,x\n3,y\n"), a=[1.0, 2.0, 3.0])

    @pytest.mark.parametrize("text", ["value\n1\n\n3\n\n", "value,b\r\n1,2\r\n\r\n3,4\r\n", "value;b\n1;2\n  \n3;4"])
    def test_an_empty_line_is_a_gap(self, read, text):
        check(read(text), value=[1, NAN, 3])

    def test_an_empty_line_moves_no_line_number(self, read):
        assert read("a,value\n1,2\n\n3,x\n4,5\n").bad_example == "line 4, column 'value': 'x'"

    def test_without_a_line_of_names(self, read):
        check(read("1.5\n2.5\n"), **{"0": [1.5, 2.5]})
        table = read(f"{TIMES[1]},1\n{TIMES[0]},2\n")
        check(table, **{"1": [2.0, 1.0]})

    def test_row_numbers_and_a_separator_too_many(self, read):
        check(read(",load\n0,5\n1,6\n"), load=[5.0, 6.0])
        check(read("a,b\n1,2,\n3,4,\n"), a=[1.0, 3.0], b=[2.0, 4.0])

    def test_quotes_and_excels_first_line(self, read):
        check(read('"a, b","value"\n"x\ny","1.5"\n"z","2"\n'), value=[1.5, 2.0])
        check(read("sep=;\na;value\n1;2,5\n"), value=[2.5])

    def test_huge_and_long_numbers(self, read):
        table = read("a,value\n1,1e400\n2,123456789012345678901234567890\n3,1e-320\n")
        check(table, value=[float("inf"), 123456789012345678901234567890.0, 1e-320])

    def test_numbers_are_read_to_the_last_digit(self, read):
        values = np.random.default_rng(0).normal(0, 1e5, 2000)
        check(read("value\n" + "".join(f"{value!r}\n" for value in values.tolist())), value=values)


class TestTimes:
    def test_rows_follow_their_times(self, read):
        text = "value,采样时间\n" + "".join(f"{value},{TIMES[place]}\n" for value, place in ((3, 2), (1, 0), (2, 1)))
        table = read(text)
        check(table, value=[1.0, 2.0, 3.0])
        assert table.reordered and table.how["time_column"] == "采样时间"
        assert table.times[0] == np.datetime64(TIMES[0])
        assert not read("time,value\n" + "".join(f"{t},1\n" for t in TIMES)).reordered

    @pytest.mark.parametrize(
        "first, second",
        [
            ("2024/1/9 0:05", "2024/1/10 0:00"),
            ("2024-01-09", "2024-01-10"),
            ("2024年1月9日 00:05", "2024年1月10日 00:00"),
            ("09.02.2024 10:00", "01.03.2024 09:00"),
            ("31/01/2024 10:00:00", "01/02/2024 09:00:00"),
            ("01/31/2024 10:00", "02/01/2024 09:00"),
            ("2024-01-09T00:00:00Z", "2024-01-09T00:00:01Z"),
            ("2024-01-09T07:00:00+08:00", "2024-01-09T00:00:00+00:00"),
            ("9:05", "10:00"),
            ("09:05:10.5", "09:05:11.0"),
        ],
    )
    def test_ways_to_write_them(self, read, first, second):
        table = read(f"when,a\n{second},2\n{first},1\n")
        check(table, a=[1.0, 2.0])
        assert table.how["time_column"] == "when" and len(table.times) == 2

    def test_numbers_named_timestamp(self, read):
        check(read("timestamp,a\n30,3\n10,1\n20,2\n"), a=[1.0, 2.0, 3.0])
        check(read("timestamp,a\n30,3\n10,1\n", columns=["timestamp"]), timestamp=[30.0, 10.0])

    def test_a_named_column(self, read):
        table = read("step,value\n3,30\n1,10\n2,20\n", time_column="Step")
        check(table, value=[10.0, 20.0, 30.0])
        np.testing.assert_array_equal(table.times, [1, 2, 3])

    def test_equal_times_keep_their_order_and_lost_ones_their_place(self, read):
        check(read("step,value\n2,1\n1,2\n2,3\n1,4\n", time_column="step"), value=[2, 4, 1, 3])
        check(read(f"time,value\n{TIMES[2]},5\n,6\n{TIMES[0]},7\n"), value=[7, 5, 6])

    def test_day_or_month_first(self, read):
        with pytest.raises(ChatTSError, match="'when' .* may start with the day or the month"):
            read("when,value\n01/02/2024,1\n12/01/2024,2\n02/02/2024,3\n")

        check(read("when,value\n01/02/2024,1\n02/02/2024,2\n"), value=[1.0, 2.0])

    def test_no_date_among_dates(self, read):
        with pytest.raises(ChatTSError, match="'soon' in the time column 'time' is no date"):
            read(f"time,value\n{TIMES[0]},1\nsoon,2\n")


class TestOtherFiles:
    def test_npy(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([1, 2, 3], dtype=np.int16))
        check(read_table(tmp_path / "a.npy"), **{"row 0": [1, 2, 3]})
        with open(tmp_path / "b.NPY", "wb") as stream:
            np.save(stream, np.array([[1, 2], [3, 4.5]], dtype=np.float32))

        check(read_table(tmp_path / "b.NPY"), **{"row 0": [1, 2], "row 1": [3, 4.5]})

    def test_npz(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez(path, temp=[1.0, 2.0, 3.0], both=np.array([[4, 5], [6, 7]]))
        check(read_table(path), **{"temp": [1, 2, 3], "both row 0": [4, 5], "both row 1": [6, 7]})
        check(read_table(path, columns=["temp"]), temp=[1, 2, 3])
        times = np.array(["2024-01-02", "2024-01-01"], dtype="datetime64[s]")
        np.savez(path, when=times, value=[2.0, 1.0], other=[5.0, 6.0], note="x", words=["a", "b"])
        check(read_table(path), value=[1.0, 2.0])

    @pytest.mark.parametrize("kind", ["parquet", "feather"])
    def test_columnar(self, tmp_path, kind):
        path = tmp_path / f"a.{kind}"
        frame = pd.DataFrame({"t": pd.to_datetime(TIMES[::-1]), "a": [3, 2, 1], "s": list("xyz"), "b": [1.5, None, 3]})
        getattr(frame, f"to_{kind}")(path)
        table = read_table(path)
        check(table, a=[1, 2, 3], b=[3, NAN, 1.5])
        assert table.reordered and table.bad_cells == 0

    def test_parquet_with_a_row_number_and_big_numbers(self, tmp_path):
        pd.DataFrame({"a": [2**60 + 1, 5]}, index=[4, 9]).to_parquet(tmp_path / "a.parquet")
        check(read_table(tmp_path / "a.parquet"), a=[float(2**60 + 1), 5.0])

    def test_xlsx(self, tmp_path):
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        rows = [("时间", "value", "x"), (datetime(2024, 1, 2), 2, "a"), (datetime(2024, 1, 1), None, "b")]
        for row in [*rows, (datetime(2024, 1, 3), "n/v", "c"), (None, None, None)]:
            book.active.append(row)

        book.save(tmp_path / "a.xlsx")
        table = read_table(tmp_path / "a.xlsx")
        check(table, value=[NAN, 2, NAN])
        assert table.bad_cells == 1 and table.bad_example == "line 4, column 'value': 'n/v'"

    def test_xlsx_without_its_library(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "openpyxl", None)
        (tmp_path / "a.xlsx").write_bytes(b"PK")
        with pytest.raises(ChatTSError, match="a.xlsx: .*not installed. Run: pip install openpyxl"):
            read_table(tmp_path / "a.xlsx")


class TestRefused:
    @pytest.mark.parametrize(
        "content, options, message",
        [
            (b"", {}, "泵1.csv: the file is empty. Put the series into it"),
            (b" \r\n\n", {}, "泵1.csv: the file is empty"),
            ("time,value\n", {}, "泵1.csv: the file has names but no rows"),
            ("name,kind\nx,y\n", {}, "no column holds numbers, the file has 'name', 'kind'. Name the series"),
            ("a,b\n1,2\n", {"columns": ["valu"]}, "there is no column called 'valu', the file has 'a', 'b'. Correct"),
            ("1,2\n3,4\n", {"columns": ["value"]}, r"the file has '0', '1' \(the file has no line of names\)"),
            ("a,b\n1,2\n", {"time_column": "zeit"}, "there is no column called 'zeit'"),
            ("value,Value,VALUE\n1,2,3\n", {"columns": ["vaLue"]}, "several columns are called 'vaLue'"),
            ("value,x,value\n1,2,3\n", {}, ":1: the header names 'value' twice, in columns 1 and 3. Give each"),
            ("a,b\n1,2\n1,2,3\n4\n", {}, r":3: a line has 3 cells instead of 2 \(1,2,3\), and 1 more such lines"),
            (f"time,value\n{TIMES[0]},1\n2024-01-01 0", {}, r":3: a line has 1 cells instead of 2 \(2024-01-01 0\)"),
            ('a,value\n1,"2\n3,4\n', {}, "a quote is opened and never closed"),
            (b"a,value\n1,2\n\xff\xff,3\n", {}, r":3: the text is neither UTF-8 nor GBK \(byte 0xff\). Save the file"),
            (b"\x00\x01\x02\x03", {}, "the file is no text, it holds zero bytes"),
            ("a,b\n1,2\n", {"decimal": "'"}, 'decimal: "\'" is no decimal sign'),
        ],
    )
    def test_text(self, read, content, options, message):
        with pytest.raises(ChatTSError, match=message):
            read(content, **options)

    @pytest.mark.parametrize(
        "array, message",
        [
            (np.float64(1), "the array is a single number"),
            (np.zeros((5000, 1)), r"an array of shape \(5000, 1\) would be 5000 series, one per row. .*transpose"),
            (np.array(["a"]), "the array holds <U1, not numbers"),
            (np.array([True]), "the array holds bool"),
            (np.array([{}], dtype=object), "a.npy: this is no readable .npy file"),
            (np.zeros(0), "names but no rows"),
        ],
    )
    def test_arrays(self, tmp_path, array, message):
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(ChatTSError, match=message):
            read_table(tmp_path / "a.npy")

    @pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "feather"])
    def test_damaged(self, tmp_path, kind):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(b"PAR1 no such file")
        with pytest.raises(ChatTSError, match=f"a.{kind}: this is no readable .{kind} file .*Write the file again"):
            read_table(path)

    def test_places(self, tmp_path):
        (tmp_path / "folder.csv").mkdir()
        (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
        (tmp_path / "a.jpg").write_bytes(b"x")
        for name, message in [
            ("gone.csv", "gone.csv: the file does not exist"),
            ("gone.parquet", "gone.parquet: the file does not exist"),
            ("folder.csv", "folder.csv: a folder stands where a file should be"),
            ("loop.csv", "loop.csv: the file cannot be read"),
            ("a.jpg", "files of the kind .jpg are not read. Use one of .csv, "),
        ]:
            with pytest.raises(ChatTSError, match=message):
                read_table(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.parquet"])
    def test_no_permission(self, tmp_path, monkeypatch, name):
        def refuse(path, *args, **options):  # taking the right away does not stop root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        (tmp_path / name).write_text("value\n1\n")
        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(ChatTSError, match=f"{name}: no permission to read the file"):
            read_table(tmp_path / name)

    def test_times_of_another_length(self, tmp_path):
        np.savez(tmp_path / "a.npz", time=[1.0, 2.0], a=[1.0, 2.0, 3.0])
        with pytest.raises(ChatTSError, match="'time' holds 2 times, but a series has another length"):
            read_table(tmp_path / "a.npz")
