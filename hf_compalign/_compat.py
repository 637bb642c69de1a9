"""Workarounds for versions of dependencies, each with its reason and its expiry."""

from pathlib import Path


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds a tokenizer.

    AutoTokenizer of transformers 5.23 makes up an empty one for a folder that has none, to which every word is unknown.
    To be removed when it refuses such a folder, as transformers 4 did.
    """
    return any(any(folder.glob(pattern)) for pattern in ("*token*", "vocab*", "*.model"))
