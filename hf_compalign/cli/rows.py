"""The rows of the dataset that a command line names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hf_compalign.cli.options import refuse_ignored

if TYPE_CHECKING:
    from datasets import Dataset

_SAVED_DATASET = ("dataset_dict.json", "state.json")
_AUDITED, _MADE_WITH = ("test", "validation"), ("train", "validation")


def audited_rows(given: Mapping[str, Any], console: Console) -> "Dataset":
    """The rows that the parameters of a command name; the console says how many there are."""
    from hf_compalign.data import sample

    rows = sample(load_rows(given["dataset"], given["config"], given["split"]), given["max_samples"])
    console.print(f"{len(rows):,} rows of {given['dataset']}, columns {', '.join(rows.column_names)}")
    return rows


def rows_to_make_with(where: str | None, given: Mapping[str, Any]) -> "Dataset | None":
    """Rows that a command calibrates or trains on; --config is theirs too where they are of the --dataset."""
    if where is None:
        return None
    return load_rows(where, given["config"] if _is_same(where, given["dataset"]) else None, usual=_MADE_WITH)


def are_audited(where: str, given: Mapping[str, Any]) -> bool:
    """Whether such rows are those of the --dataset: of the same name, and of the same split."""
    if not _is_same(where, given["dataset"]):
        return False
    names = _split_names(where, given["config"])
    return not names or _choose(names, given["split"], _AUDITED) == _choose(names, None, _MADE_WITH)


def _is_same(where: str, dataset: str | None) -> bool:
    return dataset is not None and Path(where) == Path(dataset)


def _split_names(where: str, config: str | None) -> Sequence[str]:
    """The names of the splits; none where there is but one without a name."""
    import datasets

    from hf_compalign.data import BUILDERS

    path = Path(where)
    if path.is_file() or path.suffix in BUILDERS:
        return ()
    if any((path / name).is_file() for name in _SAVED_DATASET):
        saved = _loaded(where, datasets.load_from_disk)
        return list(saved) if isinstance(saved, dict) else ()
    names: Sequence[str] = _loaded(where, datasets.get_dataset_split_names, config)
    return names


def load_rows(
    where: str, config: str | None = None, split: str | None = None, *, usual: Sequence[str] = _AUDITED
) -> "Dataset":
    """The rows of a file, a saved dataset, a folder of images, or a dataset on the Hub.

    Args:
        where: its path or name.
        config: the configuration on the Hub.
        split: its name; by default the first of the ``usual`` names that exists, or the only split.
        usual: names of splits.

    Raises:
        ValueError: there is no dataset, the split is not clear, or an option would have no effect.
    """
    import datasets

    from hf_compalign.data import BUILDERS, load_file

    path = Path(where)
    if path.is_file() or path.suffix in BUILDERS:
        refuse_ignored(f"{path.name} is a single file", {"config": config, "split": split})
        return load_file(path)
    if any((path / name).is_file() for name in _SAVED_DATASET):
        refuse_ignored(f"{path} is a saved dataset", {"config": config})
        saved = _loaded(where, datasets.load_from_disk)
        if isinstance(saved, dict):
            return saved[_choose(list(saved), split, usual)]
        refuse_ignored(f"{path} holds a single split", {"split": split})
        return saved
    splits = _loaded(where, datasets.get_dataset_split_names, config)
    return _loaded(where, datasets.load_dataset, config, split=_choose(splits, split, usual))


def _loaded(where: str, load: Callable[..., Any], *args: Any, **options: Any) -> Any:
    from datasets.exceptions import DatasetsError

    from hf_compalign.data import BUILDERS

    try:
        return load(where, *args, **options)
    except (OSError, ValueError, IndexError, DatasetsError) as error:  # IndexError: of an empty name
        raise ValueError(
            f"No dataset could be loaded from {where!r}: it must be a file ({', '.join(BUILDERS)}), a folder, or the "
            f"name of a dataset on the Hub. ({error.__cause__ or error})"
        ) from error


def _choose(splits: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str:
    for name in (wanted,) if wanted else usual:
        if name in splits:
            return name
    if wanted or len(splits) > 1:
        got = f"There is no split {wanted!r}" if wanted else "It is not clear which split to use"
        raise ValueError(f"{got}. The dataset has {', '.join(splits)}. Name one of them with --split.")
    return splits[0]
