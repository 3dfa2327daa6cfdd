"""The value-preserving encoding against values of the published processors, and every refusal."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.core.series import THRESHOLD, as_series, encode, num_patches, stack


ENCODINGS = [
    json.loads(line) for line in (Path(__file__).parent / "golden" / "encoding.jsonl").read_text().splitlines()
]


def test_all_encodings_are_here():
    assert len(ENCODINGS) == 22


@pytest.mark.parametrize("golden", ENCODINGS, ids=[golden["name"] for golden in ENCODINGS])
class TestGoldenEncoding:
    def test_header(self, golden):
        assert encode(golden["series"]).header + "<ts><ts/>" == golden["prompt"]

    def test_offset_and_scale(self, golden):
        encoded = encode(golden["series"])
        assert encoded.offset == pytest.approx(golden["offset"], rel=1e-12, abs=1e-300)
        assert encoded.scale == pytest.approx(golden["scale_factor"], rel=1e-12)

    def test_values_are_identical(self, golden):
        encoded = encode(golden["series"])
        assert encoded.values.dtype == np.float16
        np.testing.assert_array_equal(encoded.values, np.array(golden["values_fp16"], dtype=np.float16))

    @pytest.mark.parametrize("kind", [tuple, np.array, lambda series: np.array(series, dtype=object)])
    def test_the_container_does_not_matter(self, golden, kind):
        given, plain = encode(kind(golden["series"])), encode(golden["series"])
        assert given.header == plain.header
        np.testing.assert_array_equal(given.values, plain.values)


class TestNumPatches:
    @pytest.mark.parametrize("patch", [1, 8, 16])
    def test_rounds_up(self, patch):
        for points in range(1, 100):
            assert num_patches(points, patch) == math.ceil(points / patch)


class TestScaling:
    def test_nothing_is_scaled_below_the_threshold(self):
        assert encode([-THRESHOLD + 1e-9, THRESHOLD - 1e-9]).scale == 1.0

    def test_the_largest_deviation_becomes_the_threshold(self):
        encoded = encode([0.0, 0.0, 0.0, 400.0])
        assert encoded.scale == 100.0
        assert float(np.abs(encoded.values).max()) == THRESHOLD

    def test_whole_numbers(self):
        header = "[offset=-2.0000|scaling=1.0000|length=3|max=3.0000|min=1.0000|left=1.0000|right=3.0000]"
        assert encode([1, 2, 3]).header == header


class TestVanished:
    @pytest.mark.parametrize("amplitude", [1e-4, 1e-6, 1e-9])
    @pytest.mark.parametrize("level", [0.0, 5.0, -1000.0])
    def test_a_tiny_amplitude_is_flagged(self, amplitude, level):
        assert encode(level + amplitude * np.sin(np.arange(64))).vanished

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e-6, -3.7e8])
    @pytest.mark.parametrize("points", [1, 3, 64, 1000])
    def test_a_constant_is_not(self, value, points):
        assert not encode([value] * points).vanished

    @pytest.mark.parametrize("amplitude", [0.01, 1.0, 3.0, 1e3, 1e12])
    def test_a_normal_series_is_not(self, amplitude):
        assert not encode(amplitude * np.sin(np.arange(64))).vanished

    @pytest.mark.parametrize("golden", [golden for golden in ENCODINGS if len(golden["series"]) > 1])
    def test_nothing_is_lost_where_it_is_not_flagged(self, golden):
        x, encoded = np.array(golden["series"]), encode(golden["series"])
        if np.ptp(x) > 0 and not encoded.vanished:
            back = encoded.values.astype(np.float64) * encoded.scale - encoded.offset
            assert np.abs(back - x).max() <= max(2e-3 * encoded.scale, 1e-3)


class TestStack:
    def test_values_and_mask_are_interleaved_with_zeros_behind(self):
        batch = stack([encode([1.0, 2.0, 3.0]), encode([5.0])])
        assert batch.dtype == np.float16
        assert batch.shape == (2, 6, 1)
        assert batch[0, :, 0].tolist() == [-1, 1, 0, 1, 1, 1]
        assert batch[1, :, 0].tolist() == [0, 1, 0, 0, 0, 0]

    def test_nothing(self):
        assert stack([]).shape == (0, 0, 1)


def refusal(value):
    with pytest.raises(ChatTSError) as caught:
        as_series(value)

    assert caught.value.where is None
    assert len(str(caught.value)) < 200
    return str(caught.value)


FLAT = "Every point must be a number, and each series one flat list; fill or remove gaps."


class TestRefusals:
    @pytest.mark.parametrize("value", [[], (), np.array([]), np.zeros((0, 3))])
    def test_empty(self, value):
        assert refusal(value) == "a series is empty. Give it at least one point or remove it and its <ts><ts/>."

    @pytest.mark.parametrize(
        ("value", "name"),
        [
            (None, "NoneType (None)"),
            (3.5, "float (3.5)"),
            (np.array(3.5), "ndarray (3.5)"),
            ("1,2,3", "str (1,2,3)"),
            (b"123", "bytes (b'123')"),
            ({"values": [1.0]}, "dict ({'values': [1.0]})"),
        ],
    )
    def test_no_list(self, value, name):
        assert refusal(value) == (
            f"a series must be a list of numbers, not {name}. Write each series as [1.0, 2.0, ...]."
        )

    def test_data_in_the_message_is_cut(self):
        assert refusal("9" * 1000) == (
            f"a series must be a list of numbers, not str ({'9' * 37}...). Write each series as [1.0, 2.0, ...]."
        )

    @pytest.mark.parametrize("value", [[1.0, None, None], (1.0, None), np.array([1.0, None])])
    def test_null(self, value):
        assert refusal(value) == f"a series holds null at point 1 (None). {FLAT}"

    @pytest.mark.parametrize("value", [[1, "2", 3], ["1", "2"], [1.0, "n/a"], np.array(["1", "2"])])
    def test_text(self, value):
        assert "a series holds str" in refusal(value) and FLAT in refusal(value)

    def test_text_is_named_with_its_place(self):
        assert refusal([1.0, 2.0, "n/a"]) == f"a series holds str at point 2 (n/a). {FLAT}"

    @pytest.mark.parametrize("value", [[True, False], [1.0, True], [1, 2, True], np.array([True]), [np.True_, 1.0]])
    def test_booleans(self, value):
        assert "a series holds bool at point" in refusal(value)

    def test_a_boolean_is_named_with_its_place(self):
        assert refusal([1.5, 2.0, True]) == f"a series holds bool at point 2 (True). {FLAT}"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ([[1.0, 2.0]], "a series holds a list at point 0 ([1.0, 2.0])"),
            ([[1.0, 2.0], [3.0, 4.0]], "a series holds a list at point 0 ([1.0, 2.0])"),
            ([[1.0, 2.0], [3.0]], "a series holds a list at point 0 ([1.0, 2.0])"),
            ([1.0, [2.0]], "a series holds a list at point 1 ([2.0])"),
            ([[]], "a series holds a list at point 0 ([])"),
            (np.ones((2, 3)), "a series holds a list at point 0 ([1. 1. 1.])"),
        ],
    )
    def test_nested_ragged_and_two_dimensional(self, value, text):
        assert refusal(value) == f"{text}. {FLAT}"

    @pytest.mark.parametrize("value", [[1.0, 2.0 + 1j], np.array([1j])])
    def test_complex_numbers(self, value):
        assert "a series holds complex" in refusal(value)

    @pytest.mark.parametrize("value", [[1.0, math.nan], np.array([1.0, np.nan]), np.array([1, np.nan], np.float16)])
    def test_nan(self, value):
        assert refusal(value) == "a series holds NaN at point 1. Fill or remove gaps before training."

    @pytest.mark.parametrize("value", [[1.0, 2.0, math.inf, math.nan], [1.0, 2.0, -math.inf]])
    def test_infinite(self, value):
        text = "a series holds an infinite value at point 2. Fill or remove gaps before training."
        assert refusal(value) == text

    @pytest.mark.parametrize("value", [[1.0, 2e300], [sys.float_info.max, 0.0], [-2e300], [10**400, 1], [1, 10**301]])
    def test_too_large(self, value):
        assert refusal(value) == "a series holds values above 1e300. Rescale it."

    def test_large_values_that_fit(self):
        assert as_series([1e300, -1e300]).tolist() == [1e300, -1e300]
        assert as_series([10**30, 1]).tolist() == [1e30, 1.0]
        assert as_series([2**63, -1]).tolist() == [2.0**63, -1.0]
        assert np.isfinite(encode([1e300, -1e300, 1e300]).values).all()

    @pytest.mark.parametrize("kind", [np.int8, np.uint64, np.float16, np.float32, np.longdouble])
    def test_every_number_type_becomes_float64(self, kind):
        array = as_series(np.array([1, 2, 3], dtype=kind))
        assert array.dtype == np.float64 and array.tolist() == [1.0, 2.0, 3.0]
