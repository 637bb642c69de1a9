"""Are planted slices found and named, and is nothing found where there is nothing? Made-up answers to made-up texts.

python benchmarks/slices.py [--seeds 20] [--items 1200]

Texts of 3 to 19 of 60 words; 12 % of them also have the word "not". A reference of three classes answers at random. A
candidate changes a share of its answers, and where the slice is planted another share of those with "not". Each row of
the table is a number of seeds: of the texts, the answers and the changes.
"""

import argparse

import numpy as np
from datasets import Dataset
from tables import head, row

from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.slices import SliceOptions, find_slices

WORDS = [f"word{place}" for place in range(60)]
SHARE = 0.12  # of the texts that have the planted word
# Share of changed answers in the slice, and elsewhere.
CHANGES = ((0.4, 0.03), (0.2, 0.03), (0.1, 0.03), (0.0, 0.0), (0.03, 0.03), (0.2, 0.2))


def made(seed: int, n: int, inside: float, outside: float) -> tuple[Predictions, Predictions, Dataset]:
    """A reference's answers, a candidate's, and the texts."""
    rng = np.random.default_rng(seed)
    planted = rng.random(n) < SHARE
    texts = [" ".join([*rng.choice(WORDS, size=rng.integers(3, 20)), *["not"] * int(one)]) for one in planted]
    ids = [str(place) for place in range(n)]
    before = rng.integers(0, 3, n)
    changed = rng.random(n) < np.where(planted, inside, outside)
    logits = 5 * np.eye(3)[[before, (before + changed) % 3]] + rng.normal(scale=0.1, size=(n, 3))
    both = [Predictions(one, [-100] * n, ids, ("a", "b", "c")) for one in np.asarray(logits)]
    return both[0], both[1], Dataset.from_dict({"id": ids, "text": texts})


def main() -> None:
    """Find, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seeds", 20), ("items", 1200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    print(head("changed in the slice", "elsewhere", "seeds", "found and named", "another slice found", "nothing found"))
    for inside, outside in CHANGES:
        named = others = nothing = 0
        for seed in range(options.seeds):
            found = find_slices(*made(seed, options.items, inside, outside), options=SliceOptions(seed=seed))
            names = [str(one) for one in found.rows]
            named += "contains 'not'" in names
            others += any(name != "contains 'not'" for name in names)
            nothing += not names
        print(row(f"{inside:.0%}", f"{outside:.0%}", options.seeds, named, others, nothing))


if __name__ == "__main__":
    main()
