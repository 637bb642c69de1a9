"""Plain data with a JSON file of its own kind."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hf_compalign._files import read_record, write_record
from hf_compalign._records import built, plain, without_nan

_Record = TypeVar("_Record", bound="Saved")


class Saved:
    """A frozen dataclass that is written as JSON and read again.

    Attributes:
        kind: what the file calls itself, such as "hf_compalign.frontier".
        format_version: of the file; it rises when older versions of this library cannot read it any more.
    """

    kind: ClassVar[str]
    format_version: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts."""
        return {"kind": self.kind, "format_version": self.format_version, **plain(self)}

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, with null for nan; the file is whole or not there."""
        write_record(path, without_nan(self.to_dict()))

    @classmethod
    def load(cls: type[_Record], path: str | Path) -> _Record:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is JSON of another kind or damaged, or a newer version of this library wrote it.
        """
        writer = f"{cls.__name__}.save"
        return read_record(path, partial(built, cls), kind=cls.kind, version=cls.format_version, writer=writer)
