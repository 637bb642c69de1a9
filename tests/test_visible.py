"""What hides, turns or steers in a text is made visible, and names become one short line."""

import pytest

from hf_compalign._visible import cleaned, one_line, visible

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # with a zero width non-joiner, as it is spelled


@pytest.mark.parametrize(
    "hidden",
    [
        *"\x00\x07\x1b\r\x7f\x9b\x85\u2028",
        *"\u202e\u2066\u2069\u061c",
        *"\u00ad\u180e\u200b\u2060\ufeff\ud83d",
        "\U000e0041",
    ],
)
def test_what_cannot_be_seen_is_named(hidden):
    assert visible(f"a{hidden}b") == f"a[U+{ord(hidden):04X}]b"


@pytest.mark.parametrize(
    "text", ["two\nlines\tand a tab", FAMILY, PERSIAN, "1\u200e2\u200f3", "\u00a0\u3000", "\u2764\ufe0f"]
)
def test_what_scripts_and_emoji_need_is_kept(text):
    assert visible(text) == text


def test_a_name_is_one_line_and_short():
    assert one_line(" a\r\n\tb\u2003c ") == "a b c"
    assert one_line("\x1b]0;pwn\x07") == "[U+001B]0;pwn[U+0007]".replace("]0", "]]0")
    assert one_line("x" * 3000, most=5) == "xxxx\N{HORIZONTAL ELLIPSIS}"
    assert one_line(7) == "7"


def test_every_text_is_cleaned_and_nothing_else():
    found = {"a\x00": ["b\x00", 1, None, ("c\nd", {"e": 0.5})]}
    assert cleaned(found) == {"a[U+0000]": ["b[U+0000]", 1, None, ["c\nd", {"e": 0.5}]]}
    assert cleaned(found, one_line)["a[U+0000]"][3] == ["c d", {"e": 0.5}]
