"""Examples in docstrings are shown as code, wherever in the text they stand."""

import re
from typing import Any

from griffe import Extension, Object

# From a prompt to the next empty line.
_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.M)


class Doctests(Extension):
    """Fences the doctests of every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite one object's docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
