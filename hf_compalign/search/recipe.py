"""A search as a file: what to compress, on which rows, to which limits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_compalign._files import read_text, write_text_atomic
from hf_compalign._recipes import recipe_as_text, recipe_keys
from hf_compalign._records import built
from hf_compalign.search.options import SearchOptions

_HERE = Path(__file__).parent / "recipes"
# What a file cannot say, or says in its own way.
_NOT_KEYS = ("columns", "processing_class", "overwrite")
# What has no effect without rows to train on.
OF_TRAINING = ("train_steps", "train_batch_size", "learning_rate", "seed")


@dataclass(frozen=True)
class Recipe(SearchOptions):
    """All that `hf-compalign compress` is told; the keys of a recipe's file.

    Attributes:
        model: a folder or a Hub id.
        dataset: a file, a saved dataset, a folder of images or a Hub name; so are ``calibration`` and ``train``.
        output: the folder of the artifact.
        limits: name -> value.
        config: the dataset's configuration on the Hub; that of ``calibration`` and ``train`` too, where these name it.
        split: of the dataset.
        text_column: the text, or the two of a pair.
        image_column: the images.
        audio_column: the sounds.
        label_column: the right answers.
        pixels_per_image: of segmentation, how many of each image are compared.
        max_samples: at most so many rows of the dataset.
    """

    model: str = ""
    dataset: str = ""
    output: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    calibration: str | None = None
    train: str | None = None
    config: str | None = None
    split: str | None = None
    text_column: tuple[str, ...] | None = None
    image_column: str | None = None
    audio_column: str | None = None
    label_column: str | None = None
    pixels_per_image: int | None = None
    max_samples: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Those of `SearchOptions`."""
        return {one.name: getattr(self, one.name) for one in fields(SearchOptions) if one.name not in _NOT_KEYS}

    def to_yaml(self) -> str:
        """All keys, resolved."""
        found = {name: value for name, value in asdict(self).items() if name not in _NOT_KEYS}
        return recipe_as_text({name: [*value] if isinstance(value, tuple) else value for name, value in found.items()})

    def save(self, path: Path) -> None:
        """Write `to_yaml`."""
        write_text_atomic(path, self.to_yaml())


KEYS = tuple(one.name for one in fields(Recipe) if one.name not in _NOT_KEYS)


def recipe_of(given: Mapping[str, Any], source: str | Path | None = None) -> Recipe:
    """What a file says, by a path or the name of a recipe that ships, with what is given instead.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a mapping, has an unknown key or a value of another kind, or the model, the dataset, the
            output or the limits are nowhere said; or it says how to train, and nothing says on what.
    """
    said = {} if source is None else read_recipe(source)
    found = built(Recipe, {**said, **{name: value for name, value in given.items() if value is not None}})
    for name in ("model", "dataset", "output", "limits"):
        if not getattr(found, name):
            raise ValueError(f"There is no {name}. Say it on the command line, or as {name}: in the recipe.")
    # A recipe that a run saved says all keys.
    idle = [name for name in OF_TRAINING if name in said and said[name] != getattr(SearchOptions, name)]
    if found.train is None and idle:
        raise ValueError(
            f"The recipe {source} sets {', '.join(idle)}, and there are no rows to train on. Give --train, or train: "
            "in the recipe."
        )
    return found


def read_recipe(source: str | Path) -> dict[str, Any]:
    """The keys and values of a file, or of a recipe that ships."""
    return recipe_keys(recipe_text(source), source, KEYS)


def recipe_text(source: str | Path) -> str:
    """A recipe as it is written: a file, or one that ships, by its name."""
    path = _HERE / f"{source}.yaml" if str(source) in shipped_recipes() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {source}. Those that ship: {', '.join(shipped_recipes())}.")
    return read_text(path)


def shipped_recipes() -> dict[str, str]:
    """Name -> what it is for: the comment in its first line."""
    return {path.stem: read_text(path).splitlines()[0].lstrip("# ") for path in sorted(_HERE.glob("*.yaml"))}
