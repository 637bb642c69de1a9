"""The sets of `by_task.py`: rows of real data sets, and what is made of them on the spot.

Each function writes train.parquet and validation.parquet into a folder, unless they are there, and returns their paths.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from datasets import Audio, ClassLabel, Dataset, Features, Sequence, Value
from scipy.io import wavfile
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_compalign.data import load_file, sample

Make = Callable[[Path], tuple[Dataset, Dataset]]

# fmt: off
NAMES = (
    "Anna", "Bernd", "Carla", "David", "Elena", "Farid", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Luis", "Maria",
    "Nadia", "Oscar", "Petra", "Rahul", "Sofia", "Thomas", "Ursula", "Victor", "Wanda", "Xavier", "Yusuf", "Zoe",
)
SURNAMES = (
    "Abbot", "Becker", "Castro", "Dubois", "Evans", "Fischer", "Garcia", "Haas", "Ito", "Jensen", "Kaya", "Lopez",
    "Meyer", "Novak", "Olsen", "Patel",
)
PLACES = (
    "Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Dublin", "Athens", "Lisbon", "Prague", "Warsaw",
    "Cairo", "Delhi", "Tokyo", "Seoul", "Boston", "Chicago", "Denver", "Houston",
)
FIRMS = (
    "Acme", "Globex", "Initech", "Umbra", "Vandelay", "Wonka", "Stark", "Hooli", "Cyberdyne", "Tyrell",
)
# fmt: on
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
GROUPS = ("African", "Islam", "Jewish", "Homosexual", "Women")
RATE = 16_000
SOUNDS = ("noise", "sawtooth", "sine", "square")


def kept(make: Make) -> Callable[[Path, Path], tuple[Path, Path]]:
    """Both files of a set, made unless they are there."""

    def made(data: Path, folder: Path) -> tuple[Path, Path]:
        paths = (folder / "train.parquet", folder / "validation.parquet")
        if not all(path.is_file() for path in paths):
            folder.mkdir(parents=True, exist_ok=True)
            for rows, path in zip(make(data), paths, strict=True):
                rows.to_parquet(path)
        return paths

    return made


def parts(rows: Dataset, *sizes: int) -> tuple[Dataset, ...]:
    """Disjoint parts of so many rows, at random."""
    rows, begin, found = sample(rows, sum(sizes)), 0, []
    for size in sizes:
        found.append(rows.select(range(begin, begin + size)))
        begin += size
    return tuple(found)


def phrases(data: Path) -> tuple[Dataset, ...]:
    """Of SST-2, not in its order."""
    return parts(load_file(str(data / "sst2" / "train.parquet")), 6000, 3000)


def as_it_is(name: str, evaluated: str = "test", most: int | None = None) -> Make:
    """The training rows of a set, perhaps so many of them at random, and those of the split to evaluate on."""

    def make(data: Path) -> tuple[Dataset, Dataset]:
        train, others = (load_file(str(data / name / f"{split}.parquet")) for split in ("train", evaluated))
        return sample(train, most), others

    return make


def numbers(data: Path) -> tuple[Dataset, ...]:
    """HateXplain's normal, offensive and hateful as 0, 0.5 and 1."""
    found = []
    for split, size in (("train", 1500), ("test", None)):
        rows = sample(load_file(str(data / "hatexplain" / f"{split}.parquet")), size)
        grade = {"normal": 0.0, "offensive": 0.5, "hatespeech": 1.0}
        names = rows.features["label"].names
        values = [grade[names[label]] for label in rows["label"]]
        found.append(rows.select_columns(["text"]).add_column("label", values))
    return tuple(found)


def labels(data: Path) -> tuple[Dataset, ...]:
    """Whom a post of HateXplain is about: a column of 0 and 1 for each of the five most frequent groups."""
    found = []
    for split in ("validation", "test"):  # the training rows do not say it
        rows = load_file(str(data / "hatexplain" / f"{split}.parquet"))
        groups = rows["target_groups"]
        columns = {name: [int(name in row) for row in groups] for name in GROUPS}
        found.append(Dataset.from_dict({"text": rows["text"]} | columns))
    return tuple(found)


def names(data: Path) -> tuple[Dataset, ...]:
    """Phrases of SST-2 among names of people, places and firms, lower case as the phrases are."""
    rng, rows = np.random.default_rng(0), {"tokens": [], "ner_tags": []}
    texts = parts(load_file(str(data / "sst2" / "train.parquet")), 3000)[0]["sentence"]
    for text in texts:
        words, tags = [], []
        for part in rng.permutation(["phrase", "PER", "LOC", "ORG"])[: rng.integers(2, 5)]:
            said, tagged = _phrase(text) if part == "phrase" else _name(rng, part)
            words, tags = words + said, tags + tagged
        rows["tokens"].append(words)
        rows["ner_tags"].append(tags)
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=TAGS))})
    return parts(Dataset.from_dict(rows, features=features), 1500, 1500)


def _phrase(text: str) -> tuple[list[str], list[str]]:
    words = text.split()[:20]
    return words, ["O"] * len(words)


def _name(rng: np.random.Generator, kind: str) -> tuple[list[str], list[str]]:
    person, place, firm = rng.choice(NAMES), rng.choice(PLACES), rng.choice(FIRMS)
    surname = rng.choice(SURNAMES)
    name = {
        # A surname may be a firm's too, and a place a person's, so that a word alone does not tell.
        "PER": [[person, surname], [surname], [person, place]],
        "LOC": [["near", place], ["new", place], ["in", place]],
        "ORG": [[firm, "studios"], [surname, "studios"], [place, firm]],
    }[kind][rng.integers(3)]
    outside = kind == "LOC" and name[0] in ("near", "in")
    tags = [f"B-{kind}"] + [f"I-{kind}"] * (len(name) - 1)
    return [word.lower() for word in name], ["O", f"B-{kind}"] if outside else tags


def spans(data: Path) -> tuple[Dataset, ...]:
    """Three people say phrases of SST-2 somewhere; asked is who was at a place, or where somebody was."""
    rng, rows = np.random.default_rng(0), {"question": [], "context": [], "answers": []}
    texts = parts(load_file(str(data / "sst2" / "train.parquet")), 6000)[0]["sentence"]
    for begin in range(0, len(texts), 3):
        people, places = rng.choice(NAMES, 3, replace=False), rng.choice(PLACES, 3, replace=False)
        said = [" ".join(text.split()[:12]) for text in texts[begin : begin + 3]]
        context = " ".join(
            f"{person} wrote from {place} : {text} ." for person, place, text in zip(people, places, said, strict=True)
        )
        asked = rng.integers(3)
        question, answer = (
            (f"where was {people[asked]} ?", places[asked])
            if rng.integers(2)
            else (f"who was in {places[asked]} ?", people[asked])
        )
        rows["question"].append(question)
        rows["context"].append(context)
        rows["answers"].append({"text": [str(answer)], "answer_start": [context.index(f"{answer} ")]})
    return parts(Dataset.from_dict(rows), 1500, 500)


def images(data: Path) -> tuple[Dataset, ...]:
    """Of CIFAR-10."""
    sizes = {"train": 6000, "test": 3000}
    return tuple(sample(load_file(str(data / "cifar10" / f"{split}.parquet")), size) for split, size in sizes.items())


def sounds(data: Path) -> tuple[Dataset, ...]:
    """Half a second of a wave of random pitch and loudness, with noise on top."""
    rng, rows = np.random.default_rng(0), {"audio": [], "label": []}
    seconds = np.arange(RATE // 2) / RATE
    for _ in range(1400):
        label = int(rng.integers(len(SOUNDS)))
        turns = (seconds * rng.uniform(100, 1000) + rng.uniform()) % 1
        clean = (rng.normal(size=turns.size), 2 * turns - 1, np.sin(2 * np.pi * turns), np.sign(turns - 0.5))[label]
        heard = rng.uniform(0.1, 0.5) * clean + rng.uniform(0, 0.2) * rng.normal(size=turns.size)
        rows["audio"].append({"bytes": _wav(heard), "path": None})
        rows["label"].append(label)
    of_files = {"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": ClassLabel(names=[*SOUNDS])}
    made = Dataset.from_dict(rows, features=Features(of_files))
    return parts(made.cast_column("audio", Audio(sampling_rate=RATE)), 800, 600)


def _wav(heard: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, RATE, (np.clip(heard, -1, 1) * 32767).astype("<i2"))
    return buffer.getvalue()


def untrained_vit(folder: Path) -> str:
    """A ViT of its config for images of 32 x 32."""
    config = ViTConfig(
        image_size=32, patch_size=4, hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def untrained_ast(folder: Path) -> str:
    """An AST of its config for half a second."""
    config = ASTConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        max_length=50,
        num_mel_bins=64,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
    )
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=64, max_length=50).save_pretrained(folder)
    return str(folder)


SETS: Mapping[str, Callable[[Path, Path], tuple[Path, Path]]] = {
    "text": kept(phrases),
    "questions": kept(as_it_is("trec")),
    "pairs": kept(as_it_is("rte", evaluated="validation")),
    "intents": kept(as_it_is("banking77", most=5000)),
    "numbers": kept(numbers),
    "labels": kept(labels),
    "names": kept(names),
    "spans": kept(spans),
    "images": kept(images),
    "sounds": kept(sounds),
}
ORIGINALS: Mapping[str, Callable[[Path], str]] = {"images": untrained_vit, "sounds": untrained_ast}
