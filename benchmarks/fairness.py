"""Do groups, reasons and confidence fare better when a compressed model is aligned? HateXplain, and made-up loans.

python benchmarks/fairness.py --checkpoint MINILM --data HATEXPLAIN --output OUT [--sets loans HateXplain]
    [--seeds 0 1 2] [--compressions "obs 50 %" "magnitude 50 %" INT8]

HateXplain: MiniLM, fine-tuned for two epochs on 4,000 posts (normal, offensive, hate speech; at most 48 tokens), asked
about all 3,846 posts of the validation and test files; the groups are those that at least two annotators named as
targets, and no one. Loans: a BERT of two layers trained from scratch on 8,000 rows of the table of loans.py, asked
about 4,000 others; the groups are the three kinds of applicants. Each is compressed, and from that same start trained
for the same steps on the same rows in the same order: by the stock loss on the labels ("CE"), with the three terms of
the paper ("paper"), and on the original's logits alone ("logits"). The compressions:
second-order pruning of half of the weights, INT8 by "onnxruntime-w8a8" with training through the rounding, and for
loans half of the weights by magnitude.

The rule, set before any result: a setting is a data set with a compression; CE is compared with "logits", item by
item. The claim on fairness is about the gap, the largest minus the smallest mismatch rate of the groups of 30 items or
more, and the claim on reasons about the cosine of the attributions with those of the original (layer integrated
gradients, 60 items drawn at random). A claim counts as reproduced if its difference favors "logits" with an interval
that excludes 0 in at least two settings, and as not reproduced otherwise. The largest rate of a group, the gap in units
of the rate of all items (added after the first results), the equalized odds and the overlap of the top 5 tokens are
printed beside them and decide nothing.

Runs are kept as files: what was stopped goes on where it was. Everything is printed as Markdown.
"""

from collections.abc import Iterator, Mapping, Sequence

import fairness_statistics as measured
import numpy as np
import sst2
import tables
from fairness_runs import INT8, PRUNED, Runs, hatexplain, loan_applications

from hf_compalign.measure.groups import MIN_GROUP_SIZE
from hf_compalign.measure.statistics import Estimate

BY_GROUP = ("gap", "largest rate", "gap / rate of all", "equalized odds, growth")
NEEDED = 2  # settings that must favor the alignment


def percent(found: Estimate) -> str:
    """With its interval."""
    return f"{100 * found.value:.2f} ({100 * found.low:.2f} to {100 * found.high:.2f})"


def number(found: Estimate, digits: int = 3) -> str:
    """With its interval."""
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


class Claims:
    """What the runs say in every setting; gains are positive where "logits" does better than CE."""

    def __init__(self, runs: Mapping[str, Runs], compressions: Sequence[str]) -> None:
        self.settings = {
            f"{name}, {how}": (of, how)
            for name, of in runs.items()
            for how in of.setting.compressions
            if how in compressions
        }
        self.answers = {title: of.arms(how) for title, (of, how) in self.settings.items()}
        # Of the gaps and of the cosines, which decide.
        self.gains: dict[str, dict[str, Estimate]] = {"fairness": {}, "reasons": {}}

    def mismatches(self) -> Iterator[str]:
        """In percent, means over the seeds, and the CIE ratios."""
        shown = ("no training", "CE", "paper", "logits")
        yield tables.head("setting", "items", *shown, "CIE ratio CE / paper", "CE / logits")
        for title, arms in self.answers.items():
            (reference,) = arms["original"]
            rates = [f"{100 * measured.changed(reference, arms[name]).mean():.2f}" for name in shown]
            ratios = [number(measured.cie_ratio(reference, arms["CE"], arms[name]), 2) for name in shown[2:]]
            yield tables.row(title, f"{len(reference):,}", *rates, *ratios)

    def groups(self) -> Iterator[str]:
        """Who pays, in percent."""
        yield tables.head("setting", "by group", "CE", "logits", "gain")
        for title, arms in self.answers.items():
            (reference,) = arms["original"]
            what = (reference, arms["CE"], arms["logits"], self.settings[title][0].setting.members)
            found = measured.mismatches_by_group(*what) + measured.equalized_odds(*what)
            self.gains["fairness"][title] = found[2]
            for row, name in enumerate(BY_GROUP):
                ce, logits, gain = found[3 * row : 3 * row + 3]
                yield tables.row(title, name, f"{100 * ce.value:.2f}", f"{100 * logits.value:.2f}", percent(gain))

    def by_group(self) -> Iterator[str]:
        """The mismatch rates of every group that is judged, in percent, CE before "logits"."""
        for title, arms in self.answers.items():
            setting = self.settings[title][0].setting
            rates = [100 * measured.changed(*arms["original"], arms[arm]) for arm in ("CE", "logits")]
            members = dict(zip(setting.names, setting.members.T, strict=True))
            judged = {group: inside for group, inside in members.items() if inside.sum() >= MIN_GROUP_SIZE}
            shown = (
                f"{group} {' -> '.join(f'{r[inside].mean():.2f}' for r in rates)}" for group, inside in judged.items()
            )
            yield f"{title}: {', '.join(shown)}"

    def reasons(self) -> Iterator[str]:
        """How like the original's they are."""
        yield tables.head("setting", "similarity", "no training", "CE", "logits", "gain")
        for title, (of, how) in self.settings.items():
            alike = {name: of.alike(how, name) for name in ("no training", "CE", "logits")}
            for similarity, shown in (("cosine", "cosine"), ("top_k_overlap", "top 5")):
                start, ce, logits = (found[similarity] for found in alike.values())
                found = measured.likeness(ce, logits)
                if similarity == "cosine":
                    self.gains["reasons"][title] = found[2]
                means = [f"{np.nanmean(one):.3f}" for one in (start, ce, logits)]
                yield tables.row(title, shown, *means, number(found[2]))

    def confidence(self) -> Iterator[str]:
        """How sure the models are, and how right."""
        measures = ("accuracy", "confidence", "length of the logits", "ECE", "ECE - ECE of CE")
        yield tables.head("setting", "model", *measures)
        for title, arms in self.answers.items():
            errors = measured.calibration_errors(arms, against="CE")
            for name, arm in arms.items():
                error, more = errors[name]
                size = f"{measured.logit_norm(arm):.2f}"
                rates = (f"{100 * rate(arm):.2f} %" for rate in (measured.accuracy, measured.confidence))
                yield tables.row(title, name, *rates, size, f"{error.value:.3f}", "" if name == "CE" else number(more))

    def verdict(self) -> Iterator[str]:
        """By the rule that was set before."""
        for claim, gains in self.gains.items():
            for_it = sum(gain.low > 0 for gain in gains.values())
            against = sum(gain.high < 0 for gain in gains.values())
            said = "reproduced" if for_it >= NEEDED else "not reproduced"
            yield f"{claim}: {for_it} of {len(gains)} settings favor the logits, {against} CE: {said}."


def main() -> None:
    """Train, ask, explain, print."""
    parser = sst2.parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=["loans", "HateXplain"], default=["loans", "HateXplain"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--compressions", nargs="+", choices=[*PRUNED, INT8], default=[*PRUNED, INT8])
    options = parser.parse_args()
    makers = {"loans": loan_applications, "HateXplain": lambda: hatexplain(options.checkpoint, options.data)}
    runs = {name: Runs(makers[name](), options.output / name.lower(), options.seeds) for name in options.sets}
    claims = Claims(runs, options.compressions)
    for part in (claims.mismatches, claims.groups, claims.by_group, claims.reasons, claims.confidence, claims.verdict):
        print("", *part(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
