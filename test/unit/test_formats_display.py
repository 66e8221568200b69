"""Text from outside, as it is shown on a terminal, in JSON and in file names."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.formats.display import MAX_STEM_BYTES, file_stem, is_plain, json_escaped, line
from chimera_ros.formats.text import excerpt

SPOKEN = (
    "antipodal swap",
    "任务 演示",
    "全角\u3000空格",
    "Übung été naïve Ångström cafe\u0301",
    "Ωμέγα Миссия עברית مهمة नमस्ते",
    "می\u200cخواهم क्\u200dष",  # joiners inside of words
    "🚁 ✈️ 👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 1️⃣ 🇩🇪",
    "\U0001fae9",  # newer than the Unicode of some Pythons
    "10 m · 2–3 °C ± 5 µs × 4 − 1 …",
    "[red] :bomb: $x$ \\n %s {0}",
)


@pytest.mark.parametrize("text", SPOKEN)
def test_what_people_write_is_shown_as_it_is(text: str) -> None:
    assert line(text) == text
    assert is_plain(text)
    assert json_escaped(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m\x85\x7f\x00\x08", r"\x9b31m\x85\x7f\x00\x08"),
        ("a\u202eb\u2066c\u2069\u200f\u061c", r"a\u202eb\u2066c\u2069\u200f\u061c"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("a\u200bb\u2060c\ufeffd\u00ade", r"a\u200bb\u2060c\ufeffd\xade"),
        ("a\u200db \u200c", r"a\u200db \u200c"),  # joiners that join nothing
        ("a\u3164\u115f\u034f", r"a\u3164\u115f\u034f"),  # letters that show nothing
        ("✈\ufe0f\ufe0f", "✈\ufe0f\\ufe0f"),
        ("\U000e0041\U000e007f", r"\U000e0041\U000e007f"),  # letters that show nothing (tags)
        ("\udcff\ud83d", r"\udcff\ud83d"),
        ("\ue000\uffff", r"\ue000\uffff"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_escaped(text: str, shown: str) -> None:
    assert line(text) == shown
    assert not is_plain(text)
    assert is_plain(line(text, instead=" "))


@given(
    st.text(st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Lu", "Lo", "Mn", "So"))),
    st.sampled_from((None, " ")),
)
def test_a_line_holds_nothing_but_shown_characters(text: str, instead: str | None) -> None:
    shown = line(text, instead=instead)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert {char for char in shown if unicodedata.category(char) == "Cf"} <= {"\u200c", "\u200d"}
    shown.encode()


@pytest.mark.parametrize("character", ["x", "任", "\x1b", "\n"])
def test_a_long_text_keeps_both_ends(character: str) -> None:
    shown = line("begin " + character * 10_000_000 + " end", 100)
    assert len(shown) <= 100
    assert shown.startswith("begin ") and " … " in shown and shown.endswith(" end")
    assert len(line(character * 101, 100)) <= 100


def test_an_excerpt_passes_the_same_gate() -> None:
    assert excerpt("全角\u3000\u202e" + "x" * 100) == "全角\u3000\\u202e" + "x" * 36


@given(st.text(st.characters()) | st.sampled_from(SPOKEN))
def test_escaped_json_is_the_same_json(text: str) -> None:
    value = {text: [text, 1.5], "\x7f": "\x9b\u2028"}
    for ascii_only in (True, False):
        escaped = json_escaped(json.dumps(value, indent=1, ensure_ascii=ascii_only))
        assert json.loads(escaped) == value
        assert all(is_plain(part) for part in escaped.split("\n"))
        escaped.encode()


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("antipodal_swap", "antipodal_swap"),
        ("任务-1.2 🚁", "任务-1.2_🚁"),
        ("a/b\\c\x1b[31m\n$(x)*?'\"", "a_b_c__31m___x_____"),
        ("../..", "_.."),
        (".-hidden", "hidden"),
        ("-rf", "rf"),
        ("\udcff\u202e", "__"),
        ("", "unnamed"),
        ("...", "unnamed"),
    ],
)
def test_a_name_for_a_file_is_one_plain_component(text: str, stem: str) -> None:
    assert file_stem(text) == stem


@given(st.text(st.characters()))
def test_a_name_for_a_file_is_bounded(text: str) -> None:
    stem = file_stem(text * 50)
    assert 1 <= len(stem.encode()) <= MAX_STEM_BYTES
    assert not set(stem) & set("/\0 \n") and stem not in (".", "..")
