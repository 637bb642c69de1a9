"""Audits as dicts, made up for the report page: the right shape and plausible numbers, but nothing was measured."""

import base64
import copy
import io
import itertools
import math

import numpy as np
from PIL import Image

from hf_compalign.measure.statistics import Cells, mcnemar, per_class, proportions, rate, upper_bound, wilson_interval

_SENTENCE = "the film is a slow warm story of people who never say what they mean but it works and ends well"
WORDS = _SENTENCE.split()
GROUPS = {"target": ("women", "men", "religion", "origin", "none"), "length": ("1 to 9 words", "10 to 20 words")}
MIN_GROUP_SIZE = 30
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "</style><img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1>",
    "' onmouseover='window.hacked = 1' x='",
    '" autofocus onfocus="window.hacked = 1',
    "javascript:window.hacked=1",
    "<a href='javascript:window.hacked=1'>link</a>",
    "{{7*7}} {% raw %} {{ config }} ${7*7}",
    "<!-- <script> --> ]]> &lt;b&gt; &amp;",
    "left \u202e right \u202c \u2066 isolate",
    "zero \x00 one \x1b two \u200b three \u2028 four",
    "half \ud83d a pair",
    "W" * 3000,
    "long text " * 1000,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 flag \U0001f1ea\U0001f1fa",
)


def text_audit(*, n=4000, n_classes=3, n_items=300, limits=True, seed=0, name="pruned-aligned", quality=1.0):
    """Texts, two attributes of groups, explanations for every third item; `quality` 2 halves the mismatches."""
    rng = np.random.default_rng(seed)
    names = ["negative", "neutral", "positive"] if n_classes == 3 else [f"class {i}" for i in range(n_classes)]
    labels = rng.integers(0, n_classes, n)
    reference = np.where(rng.random(n) < 0.88, labels, rng.integers(0, n_classes, n))
    candidate = np.where(rng.random(n) < 0.12 / quality, rng.integers(0, n_classes, n), reference)
    audit = _audit(reference, candidate, labels, names)
    audit["candidate"] = {"model": f"/home/someone/runs/{name}", "model_fingerprint": "b2f1"}
    members = {attribute: rng.choice(groups, n) for attribute, groups in GROUPS.items()}
    members["target"][:12] = "few"
    audit |= _groups(reference, candidate, labels, members, rng)
    audit["items"] = _items(reference, candidate, labels, members, rng)[:n_items]
    audit["n_items_left_out"] = audit["cie"] - len(audit["items"])
    audit |= {"attribution": _attribution(), "floor": _floor(audit), "size_bytes": [437e6, 437e6 / (1 + quality)]}
    audit |= {"latency_ms": [41.2, 30.5 / quality], "machine": "2 CPU cores", "costs": _costs()}
    if limits:
        audit["limits"] = [limit(audit, "mismatch_rate", 0.1), limit(audit, "nfr", 0.03)]
        audit["passed"] = all(row["passed"] for row in audit["limits"])
    return audit


def image_audit(*, n=500):
    """Images with heat maps of 7 by 7."""
    audit = text_audit(n=n, limits=False, seed=1)
    rng = np.random.default_rng(2)
    for item in audit["items"]:
        item |= {"texts": [], "image": png(rng)}
        if item["explanation"]:
            item["explanation"] |= {"kind": "image", "tokens": [], "shape": [7, 7]}
            for side in ("reference", "candidate"):
                item["explanation"][side] = np.clip(rng.normal(0, 0.4, 49), -1, 1).tolist()
    return audit


def unlabelled_audit(*, n=400):
    """No label is known, so that most of the numbers are not either."""
    rng = np.random.default_rng(3)
    reference = rng.integers(0, 3, n)
    candidate = np.where(rng.random(n) < 0.05, (reference + 1) % 3, reference)
    labels = np.full(n, -100)
    audit = _audit(reference, candidate, labels, ["a", "b", "c"])
    audit |= {"per_class": [], "calibration": None, "class_bias": None, "cells": None}
    return audit | {"items": _items(reference, candidate, labels, {}, rng)}


def same_audit(*, n=200):
    """A model against itself."""
    labels = np.arange(n) % 2
    return _audit(labels, labels, labels, ["no", "yes"])


def png(rng):
    image = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8)).resize((56, 56))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def hostile(found, texts=HOSTILE):
    """The same audit with these texts wherever a text can come from outside."""
    found = _with_texts(found, *texts)
    found["label_names"] = list(texts[:3])
    for row in found["per_class"]:
        row["name"] = texts[row["label"]]
    for side, text in zip(("reference", "candidate"), texts[3:5], strict=True):
        found[side] = {"model": text, "model_fingerprint": text}
    for row in (*found["groups"], *found["group_rates"], *found["gaps"]):
        row["attribute"] = texts[5] + row["attribute"]
    for place, row in enumerate(found["groups"]):
        row["group"] = texts[place]
    found["versions"] = {text: text for text in texts[:4]}
    return found | {"machine": texts[0], "data_fingerprint": texts[1]}


def _with_texts(audit, *texts):
    """The same audit, whose first items have these texts, names and groups."""
    audit = copy.deepcopy(audit)
    for item, text in zip(audit["items"], texts, strict=False):
        item |= {"texts": [text], "id": text, "groups": [f"target: {text}"]}
        if item["explanation"]:
            item["explanation"]["tokens"] = [text] * len(item["explanation"]["tokens"])
    return audit


def _audit(reference, candidate, labels, names):
    cells = Cells.count(reference, candidate, labels)
    found = proportions(reference, candidate, labels)
    metrics = {name: rate(*pair) for name, pair in found.items()}
    metrics |= {f"{name}_interval": list(wilson_interval(*pair)) for name, pair in found.items()}
    bounded = ("mismatch_rate", "nfr", "flip_rate", "pfr")
    metrics |= {f"{name}_upper_bound": upper_bound(*found[name]) for name in bounded}
    classes = [vars(row) | {"name": names[row.label]} for row in per_class(reference, candidate, labels, len(names))]
    return metrics | {
        **{"kind": "hf_compalign.audit", "format_version": 2, "passed": True, "n": len(labels), "n_labelled": cells.n},
        **{"cie": found["mismatch_rate"][0], "cie_u": cells.lost, "accuracy_change": cells.accuracy_change},
        **{
            "mcnemar_p": mcnemar(cells.lost, cells.gained) if cells.n else math.nan,
            "kl": 0.0213,
            "probability_loyalty": 0.951,
        },
        **{"logit_error": 0.31, "cells": vars(cells), "per_class": classes, "label_names": names, "limits": []},
        "reference": {"model": "org/original", "model_fingerprint": "a91c"},
        "candidate": {"model": "runs/pruned", "model_fingerprint": ""},
        **{"data_fingerprint": "77aa", "versions": {"python": "3.11.2", "torch": "2.13.0"}, "floor": None},
        **{"calibration": _calibration(cells.n), "class_bias": _bias(len(names)), "attribution": None},
        "frequencies": _frequencies(reference, candidate, len(names)),
        "margins": _margins(len(labels)),
        **{"groups": [], "group_rates": [], "gaps": [], "min_group_size": MIN_GROUP_SIZE, "items": []},
        **{"costs": [], "size_bytes": None, "latency_ms": None, "machine": "", "n_items_left_out": 0},
    }


def _items(reference, candidate, labels, members, rng):
    items = []
    for place in np.flatnonzero(reference != candidate):
        r, c, y = int(reference[place]), int(candidate[place]), int(labels[place])
        cell = "unlabelled" if y < 0 else "lost" if r == y else "gained" if c == y else "different_wrong"
        words = rng.choice(WORDS, rng.integers(6, 30)).tolist()
        items.append(
            {"id": f"row-{place}", "cell": cell, "label": None if y < 0 else y, "reference": r, "candidate": c}
            | {"reference_confidence": rng.uniform(0.4, 1), "candidate_confidence": rng.uniform(0.4, 1)}
            | {"reference_margin": rng.uniform(0, 0.9), "kl": rng.exponential(0.4)}
            | {"groups": [f"{attribute}: {group[place]}" for attribute, group in members.items()]}
            | {"texts": [" ".join(words).capitalize() + "."], "image": ""}
            | {"explanation": _explanation(words, r, rng) if place % 3 == 0 else None}
        )
    order = ("lost", "different_wrong", "unlabelled", "gained")
    return sorted(items, key=lambda item: (order.index(item["cell"]), -item["reference_confidence"]))


def _explanation(words, target, rng):
    tokens = [part for word in words for part in ((word,) if len(word) < 5 else (word[:4], f"##{word[4:]}"))]
    scores = [(scores / np.abs(scores).max()).tolist() for scores in rng.normal(0, 0.4, (2, len(tokens)))]
    shared = {"kind": "text", "target": target, "tokens": tokens, "shape": None}
    return shared | {"reference": scores[0], "candidate": scores[1]}


def _groups(reference, candidate, labels, members, rng):
    rows, rates, gaps = [], [], []
    for attribute, of in members.items():
        for group in dict.fromkeys(of):
            inside = of == group
            found = proportions(reference[inside], candidate[inside], labels[inside])
            n = int(inside.sum())
            rows.append(
                {"attribute": attribute, "group": str(group), "n": n, "n_labelled": n, "small": n < MIN_GROUP_SIZE}
                | {"mismatches": found["mismatch_rate"][0], "lost": found["nfr"][0]}
                | {
                    name: rate(*found[name])
                    for name in ("mismatch_rate", "nfr", "accuracy_reference", "accuracy_candidate")
                }
                | {f"{name}_interval": list(wilson_interval(*found[name])) for name in ("mismatch_rate", "nfr")}
                | {"accuracy_change": -0.01, "p_value": 0.01, "p_adjusted": math.nan if n < MIN_GROUP_SIZE else 0.04}
            )
            measures = ("selection_rate", "tpr", "fpr")
            for label in range(2):
                shares = {f"{m}_{side}": rng.uniform() for m in measures for side in ("reference", "candidate")}
                rates.append({"attribute": attribute, "group": str(group), "label": label} | shares)
        gaps.append(
            _gap(attribute, [row["group"] for row in rows if row["attribute"] == attribute and not row["small"]])
        )
    return {"groups": rows, "group_rates": rates, "gaps": gaps}


def _gap(attribute, groups):
    fairness = [
        {
            "measure": "demographic_parity_difference",
            "label": label,
            "reference": 0.1,
            "candidate": 0.13,
            "change": 0.03,
            "n_skipped": 0,
        }
        for label in (0, 1, None)
    ]
    return {
        **{"attribute": attribute, "n_groups": len(groups), "mismatch_gap": 0.021},
        **{
            "highest": groups[0],
            "lowest": groups[-1],
            "p_value": 0.012,
            "upper_bound": 0.034,
        },
        **{"nfr_gap": 0.01, "worst_group_accuracy_reference": 0.86, "drop_upper_bound": 0.03},
        **{
            "worst_group_reference": groups[0],
            "worst_group_accuracy_candidate": 0.84,
            "worst_group_candidate": groups[0],
        },
        **{"worst_group_accuracy_drop": 0.02, "fairness": fairness},
    }


def _calibration(n, n_bins=15):
    edges = np.linspace(0, 1, n_bins + 1)
    both = []
    for shift in (0.02, 0.06):
        bins = []
        for low, high in itertools.pairwise(edges.tolist()):
            count = 0 if low < 0.3 else int(n * (low + high) / 21)
            middle = (low + high) / 2 if count else math.nan
            bins.append({"low": low, "high": high, "n": count, "confidence": middle, "accuracy": middle - shift})
        both.append({"ece": shift, "brier": 0.2 + shift, "nll": 0.4 + shift, "bins": bins})
    changes = {f"{name}_change": _estimate(0.04, 0.03, 0.05) for name in ("ece", "brier", "nll")}
    return {"n": n, "n_bins": n_bins, "reference": both[0], "candidate": both[1]} | changes


def _bias(n_classes):
    keys = ("fpr_reference", "fpr_candidate", "fpr_change", "fnr_reference", "fnr_candidate", "fnr_change")
    rows = [
        {"label": label} | dict(zip(keys, (0.05, 0.06, 20.0, 0.1, 0.11, 10.0), strict=True))
        for label in range(n_classes)
    ]
    return {"rows": rows, "cev": 12.3, "sde": 7.1, "n_skipped": 0}


def _frequencies(reference, candidate, n_classes):
    test = {"statistic": 8.2, "df": n_classes - 1, "p_value": 0.017}
    counts = {"reference": np.bincount(reference, minlength=n_classes).tolist()}
    counts["candidate"] = np.bincount(candidate, minlength=n_classes).tolist()
    return counts | {"stuart_maxwell": test, "bowker": test, "chi_squared_unpaired": test}


def _margins(n, n_bins=10):
    rows = []
    for place in range(n_bins):
        k, of = int(0.2 * n / n_bins * (1 - place / n_bins) ** 3), n // n_bins
        row = {"low": place / n_bins, "high": (place + 1) / n_bins, "n": of, "mismatches": k}
        rows.append(row | {"mismatch_rate": rate(k, of), "mismatch_rate_interval": list(wilson_interval(k, of))})
    return rows


def _floor(audit):
    k, n = int(1.4 * audit["cie"]), audit["n"]
    found = {
        "words": "This compressed model differs from the original less than this re-run does.",
        "model": "runs/seed-1",
        "p_value": 0.01,
        "n": n,
        "mismatches": k,
        "mismatch_rate": rate(k, n),
    }
    difference = audit["mismatch_rate"] - rate(k, n)
    return found | {
        "mismatch_rate_interval": list(wilson_interval(k, n)),
        "difference": _estimate(difference, difference - 0.01, difference + 0.01),
    }


def _attribution():
    kinds = {"all": 0.7, "agreeing": 0.74, "mismatches": 0.41, "floor": 0.08, "ceiling": 0.93}
    rows = [
        {"similarity": name} | {kind: _estimate(value, value - 0.05, value + 0.05) for kind, value in kinds.items()}
        for name in ("cosine", "spearman", "top_k_overlap", "weighted_jaccard")
    ]
    counts = {"n_items": 200, "n_agreeing": 100, "n_mismatches": 100, "seed": 0, "top_k": 5}
    deltas = {"convergence_delta_reference": 0.01, "convergence_delta_candidate": 0.012}
    return {"method": "layer_integrated_gradients", "rows": rows} | counts | deltas


def _costs():
    rows = (("parameters", "109,483,778", "66,955,010", "0.61"), ("bytes", "437,935,112", "267,820,040", "0.61"))
    return [dict(zip(("what", "reference", "candidate", "ratio"), row, strict=True)) for row in rows]


def limit(audit, name, limit):
    value, bound = audit[name], audit[f"{name}_upper_bound"]
    return {
        "name": name,
        "limit": limit,
        "value": value,
        "upper_bound": bound,
        "passed": bound <= limit,
        "not_judged": [],
    }


def _estimate(value, low, high):
    return {"value": value, "low": low, "high": high}
