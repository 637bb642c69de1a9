"""Text that anyone may have written, made safe to look at: on a page, in a figure and in a terminal."""

import re
from collections.abc import Callable, Mapping
from typing import Any

# A terminal obeys controls, and they end lines; tabs and new lines are left, and folded by `one_line`.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
# What turns the reading direction of the text that follows. The marks LRM and RLM only speak for themselves.
_DIRECTIONS = "\u061c\u202a-\u202e\u2066-\u2069"
# What takes no space. The joiners ZWJ and ZWNJ do not either, but scripts and emoji are written with them.
_UNSEEN = "\u00ad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_SURROGATES = "\ud800-\udfff"
_NUMBERS = frozenset({float, int, bool, type(None)})
_HIDDEN = re.compile(f"[{_CONTROLS}{_DIRECTIONS}{_UNSEEN}{_SURROGATES}]")


def visible(text: str) -> str:
    """The text with what would hide, break or turn it made visible: controls, lone surrogates, direction changes.

    >>> visible("a\\x00b \\u202e c")
    'a[U+0000]b [U+202E] c'
    """
    text = text.replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def one_line(text: object, *, most: int = 32) -> str:
    """A name from the data on one line, `visible`, and not longer than ``most`` characters.

    >>> one_line("two\\nlines\\x1b"), one_line("a long name", most=6)
    ('two lines[U+001B]', 'a lon…')
    """
    line = " ".join(visible(str(text)).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def cleaned(value: Any, clean: Callable[[str], str] = visible) -> Any:
    """The same dicts and lists, with every text in them made `visible`, or cleaned otherwise."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {cleaned(name, clean): cleaned(item, clean) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        # Scores by the thousand are most of an audit.
        return [*value] if _NUMBERS.issuperset(map(type, value)) else [cleaned(item, clean) for item in value]
    return value
