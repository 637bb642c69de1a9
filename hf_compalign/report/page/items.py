"""The items that changed, as the report page takes them: checked, short, and impossible to mistake for markup."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any
from urllib.parse import urlencode

from hf_compalign._formats import is_known
from hf_compalign._tables import Table

_IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
# Tokenizers mark that a word goes on (WordPiece), or that it begins (byte-level BPE, SentencePiece).
_GOES_ON, _BEGINS = "##", ("Ġ", "▁")
# Inside <script> these would end it, open a comment, or end a line of the script.
_ESCAPED = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"})


def item_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The changed items of an audit whose texts were `cleaned`, with rounded numbers and checked images."""
    return [_row(item) for item in found["items"]]


def items_link(**filters: Any) -> str:
    """An address within the page that shows some of the items.

    >>> items_link(label=2, group="sex: f")
    '#label=2&group=sex%3A+f'
    """
    return f"#{urlencode(filters)}"


def links(table: Table, found: Mapping[str, Any]) -> list[str]:
    """An address for each row of a table: of the items it is about, where the audit lists any."""
    listed = {
        keys: {values for item in found["items"] for values in product(*(_values(item, key) for key in keys))}
        for keys in {tuple(one) for one in table.items}
    }
    return [items_link(**one) if tuple(one.values()) in listed[tuple(one)] else "" for one in table.items]


def _values(item: Mapping[str, Any], key: str) -> Sequence[Any]:
    return item["groups"] if key == "group" else (item[key],)


def script_json(value: Any) -> str:
    """JSON that can stand in a script element.

    >>> script_json({"text": "</script>"})
    '{"text":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    numbers = ("reference_confidence", "candidate_confidence", "reference_margin", "kl")
    return {
        **{name: item[name] for name in ("id", "cell", "label", "reference", "candidate")},
        **{name: _rounded(item.get(name)) for name in numbers},
        "name": item.get("name") or item["id"],
        "groups": list(item.get("groups") or ()),
        "texts": list(item.get("texts") or ()),
        "image": image if _IMAGE.fullmatch(image := item.get("image") or "") else "",
        "explanation": _explanation(item.get("explanation")),
    }


def _explanation(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Scores in [-1, 1], and tokens as [text, whether a space goes before]."""
    if found is None:
        return None
    return {
        "kind": found["kind"],
        "target": found["target"],
        "tokens": _spaced(found["tokens"]),
        "shape": list(found["shape"] or ()),
        **{side: [_score(score) for score in found[side]] for side in ("reference", "candidate")},
    }


def _spaced(tokens: Sequence[str]) -> list[list[Any]]:
    begins = [token.startswith(_BEGINS) for token in tokens]
    if any(begins):
        return [[token[1:] if first else token, first] for token, first in zip(tokens, begins, strict=True)]
    goes_on = [token.startswith(_GOES_ON) and token != _GOES_ON for token in tokens]
    return [[token[2:] if later else token, not later] for token, later in zip(tokens, goes_on, strict=True)]


def _score(value: Any) -> float:
    return round(max(-1.0, min(1.0, value)), 3) if is_known(value) else 0.0


def _rounded(value: Any) -> float | None:
    """Four significant digits; JSON has no nan and no infinity."""
    return float(f"{value:.4g}") if is_known(value) and math.isfinite(value) else None
