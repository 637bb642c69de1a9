"""Make text from any source safe to show on a page, in a figure and in a terminal, and names fit for others."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# A terminal obeys controls, and they end lines. Tabs and new lines stay here; `one_line` folds them.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
# These turn the reading direction of what follows. The marks LRM and RLM do not, so they stay.
_DIRECTIONS = "\u061c\u202a-\u202e\u2066-\u2069"
# These take no space. Neither do the joiners ZWJ and ZWNJ, but scripts and emoji need them.
_UNSEEN = "\u00ad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_SURROGATES = "\ud800-\udfff"
_NUMBERS = frozenset({float, int, bool, type(None)})
_HIDDEN = re.compile(f"[{_CONTROLS}{_DIRECTIONS}{_UNSEEN}{_SURROGATES}]")


def visible(text: str) -> str:
    """Name the characters that would hide, break or turn the text: controls, surrogates, direction changes.

    >>> visible("a\\x00b \\u202e c")
    'a[U+0000]b [U+202E] c'
    """
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.replace("\r\n", "\n"))


def one_line(text: object, *, most: int = 32) -> str:
    """A name from the data on one line, `visible`, and at most ``most`` characters long.

    >>> one_line("two\\nlines\\x1b"), one_line("a long name", most=6)
    ('two lines[U+001B]', 'a lon…')
    """
    line = " ".join(visible(str(text)).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def cleaned(value: Any, clean: Callable[[str], str] = visible) -> Any:
    """The same dicts and lists, with every text in them `visible`, or cleaned otherwise."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {cleaned(name, clean): cleaned(item, clean) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        # Most of an audit are thousands of scores: a fast way for those.
        return [*value] if _NUMBERS.issuperset(map(type, value)) else [cleaned(item, clean) for item in value]
    return value


def public_name(model: str) -> str:
    """What to call a model to others: its id, or its folder without the local path to it.

    >>> public_name("google-bert/bert-base-uncased"), public_name("/home/me/models/my-model")
    ('google-bert/bert-base-uncased', 'my-model')
    """
    return model if is_hub_id(model) else Path(model).name


def is_hub_id(name: str) -> bool:
    """Whether it is no folder here, and could be a model on the Hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, but not in an __all__

    if Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
