"""The one number grammar and the bounded readers of text, YAML and JSON."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.formats import json_values, numbers, yaml_nodes
from chimera_ros.formats.text import FormatError, excerpt, plain_text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_is_read_as_python_writes_it(value: float) -> None:
    assert numbers.number(repr(value)) == value
    assert numbers.number(f"{value:+.17E}") == value


@given(st.integers(-(10**60), 10**60))
def test_every_integer_is_read(value: int) -> None:
    assert numbers.integer(str(value)) == value


@given(st.text(alphabet="0123456789+-.eExo_:infaNn \u0661", max_size=8))
@settings(max_examples=500)
def test_what_is_taken_is_what_yaml_1_2_calls_a_number(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert math.isfinite(numbers.number(text))
        assert set(text) <= set("0123456789+-.eE") and any(c.isdigit() for c in text)
    with contextlib.suppress(ValueError):
        assert numbers.number(text) == numbers.integer(text)


def test_lines_are_counted_alike_whatever_ends_them() -> None:
    for text in ("a\nb\nc\x01", "a\r\nb\r\nc\x01", "\ufeffa\nb\r\nc\x01"):
        with pytest.raises(FormatError, match=r"line 3: has the character U\+0001"):
            plain_text(text, 100)
        with pytest.raises(FormatError, match=r"line 3: "):
            plain_text(text.encode(), 100)
    assert plain_text(b"\xef\xbb\xbfa\r\n\tb\n", 100) == "a\n\tb\n"
    assert excerpt("\x1b[31m" + "x" * 100) == r"\x1b[31m" + "x" * 35


def test_bounds_are_checked_before_anything_is_looked_at() -> None:
    for content in (b"\xff\xfe\x00", "\x00\ud800\x01"):
        with pytest.raises(FormatError, match="at most 2 bytes"):
            plain_text(content, 2)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('{"a": 1,\n "b": {"a": 2}, "a": 3}', 2, "a: is given twice"),
        ('{"a": 1,\n "b": [{"a": 2},\n {"a": 2, "\\u0061": 2}]}', 3, "a: is given twice"),
        ('["NaN", "[[", "\\"]",\n NaN]', 2, "NaN is no number"),
        ('["a",\n -1' + "0" * 1000 + "]", 2, "is not a finite decimal number"),
        ("[\n1e999]", 2, "'1e999' is not a finite"),
        ("\n" + "[" * 33, 2, "nested too deeply"),
        ("{1:" * 33 + "{2:", 1, "nested too deeply"),
        ("[" * 32 + "\n]", 2, "is not JSON"),
        ('{"a": 1, "a": 1}]', 1, "a: is given twice"),
        ('"[[[[', 1, "is not JSON"),
        ("[1,\n]", 2, "is not JSON"),
        ("", 1, "is not JSON"),
    ],
)
def test_json_that_is_refused_is_refused_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        json_values.parse(text, 10_000)
    assert caught.value.line == line and said in caught.value.text


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(values)
@settings(max_examples=200, deadline=None)
def test_good_json_is_read_as_ever(value: object) -> None:
    assert json_values.parse(json.dumps(value), 1_000_000) == value


@given(st.text(alphabet='[]{}:,"\\ \n0123eE.-NaIfinty\x00', max_size=40))
@settings(max_examples=500, deadline=None)
def test_bad_json_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(FormatError):
        json_values.parse(text, 1000)


@given(st.text(alphabet="[]{}:,'\"\\ \n\t0-1aU&*!|>#%@?\x00", max_size=40))
@settings(max_examples=500, deadline=None)
def test_bad_yaml_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(FormatError):
        assert isinstance(yaml_nodes.compose(text, 1000), yaml.Node)


def test_yaml_nests_as_deep_as_is_allowed() -> None:
    assert yaml_nodes.compose("[" * 31 + "1" + "]" * 31, 1000)
    with pytest.raises(FormatError, match="line 1: is nested too deeply"):
        yaml_nodes.compose("[" * 32 + "1" + "]" * 32, 1000)
