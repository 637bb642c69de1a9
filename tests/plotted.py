"""What figures are drawn of: measured files, and audits as dicts, both made by hand."""

import copy
import math

from hf_compalign.measure.audit import Verdict
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.statistics import rate, upper_bound, wilson_interval
from hf_compalign.report import plots
from hf_compalign.ship import Point

N = 200
HOSTILE = "$\\frac{x$ %s\n<script>alert(1)</script>"


def point(n_kept, mismatches, size_bytes, *, limit=0.05, **latency_ms):
    bound = upper_bound(mismatches, N)
    verdict = Verdict("mismatch_rate", limit, mismatches / N, bound, bound <= limit)
    return Point(
        kept=tuple(f"layer.{index}" for index in range(n_kept)),
        n=N,
        mismatches=mismatches,
        mismatch_rate=mismatches / N,
        mismatch_rate_interval=wilson_interval(mismatches, N),
        limits=(verdict,),
        size_bytes=size_bytes,
        latency={int(size[1:]): Latency(ms, ms - 1, ms + 1) for size, ms in latency_ms.items()},
    )


POINTS = [point(0, 9, 25_000_000, b1=2.0, b8=9.0), point(2, 4, 50_000_000, b1=3.0, b8=11.0), point(4, 0, 100_000_000)]


def estimate(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half}


def rates(n, mismatches, lost):
    return {
        "n": n,
        "mismatches": mismatches,
        "mismatch_rate": rate(mismatches, n),
        "mismatch_rate_interval": list(wilson_interval(mismatches, n)),
        "lost": lost,
        "nfr": rate(lost, n),
        "nfr_interval": list(wilson_interval(lost, n)),
    }


def class_row(label, name, n, mismatches, lost):
    return {"label": label, "name": name, "gained": 0} | rates(n, mismatches, lost)


def group_row(attribute, group, n, mismatches, lost, *, p=1.0):
    about = {"attribute": attribute, "group": group, "n_labeled": n, "small": n < 30, "p_value": p, "p_adjusted": p}
    return about | rates(n, mismatches, lost)


def bins(shift):
    """Four bins, the first empty."""
    full = [(0.375, 10), (0.625, 30), (0.875, 60)]
    rows = [{"low": 0.0, "high": 0.25, "n": 0, "confidence": math.nan, "accuracy": math.nan}]
    for middle, n in full:
        ends = {"low": middle - 0.125, "high": middle + 0.125}
        rows.append(ends | {"n": n, "confidence": middle, "accuracy": round((middle + shift) * n) / n})
    return rows


def margin_row(low, high, mismatches):
    interval = list(wilson_interval(mismatches, 100))
    rates = {"n": 100, "mismatches": mismatches, "mismatch_rate": mismatches / 100, "mismatch_rate_interval": interval}
    return {"low": low, "high": high} | rates


def record(**other):
    """What an audit of 1,000 items says, as far as the figures read it."""
    classes = [class_row(0, "no", 400, 6, 5), class_row(1, "yes", 600, 30, 12), class_row(2, "never", 0, 0, 0)]
    groups = [
        group_row("target", "women", 500, 10, 5),
        group_row("target", "islam", 300, 24, 12, p=0.001),
        group_row("target", "few", 10, 1, 1),
        group_row("length", "1 to 12", 600, 12, 6),
        group_row("length", "12 to 30", 400, 20, 10),
    ]
    similarity = {"all": estimate(0.7), "agreeing": estimate(0.8), "mismatches": estimate(0.4)}
    found = {
        "n": 1000,
        "n_labeled": 1000,
        "cie": 36,
        "cells": {"both_right": 900, "lost": 17, "gained": 9, "same_wrong": 64, "different_wrong": 10},
        "mismatch_rate": 0.036,
        "mismatch_rate_interval": list(wilson_interval(36, 1000)),
        "passed": True,
        "limits": [],
        "per_class": classes,
        "groups": groups,
        "gaps": [
            {"attribute": "target", "in_order": False, "mismatch_gap": 0.06, "upper_bound": 0.09, "p_value": 0.002}
        ],
        "min_group_size": 30,
        "calibration": {
            "n": 100,
            "n_bins": 4,
            "reference": {"ece": 0.02, "bins": bins(0.0)},
            "candidate": {"ece": 0.05, "bins": bins(-0.1)},
            "ece_change": estimate(0.03),
        },
        "changes": [{"reference": 1, "candidate": 0, "n": 36, "lost": 17, "gained": 9}],
        "label_names": ["no", "yes", "never"],
        "margins": [margin_row(0.0, 0.9, 20), margin_row(0.9, 0.9991, 3), margin_row(0.9991, 0.9994, 0)],
        "attribution": {
            "method": "layer_integrated_gradients",
            "n_agreeing": 30,
            "n_mismatches": 9,
            "top_k": 5,
            "kind": "text",
            "rows": [
                {"similarity": name, "floor": estimate(0.1), "repeat": estimate(0.95)} | similarity
                for name in ("cosine", "spearman", "top_k_overlap", "weighted_jaccard")
            ],
        },
        "candidate": {"model": "pruned", "model_fingerprint": ""},
        "size_bytes": [90_000_000, 45_000_000],
        "latency": [{"median_ms": ms, "low_ms": ms - 1, "high_ms": ms + 1} for ms in (20.0, 12.0)],
    }
    return copy.deepcopy(found | other)


def figures(found):
    """One of each kind."""
    one_of_each = [plots.plot_cells, plots.plot_classes, plots.plot_groups, plots.plot_reliability, plots.plot_margins]
    yield from (plot(found) for plot in [*one_of_each, plots.plot_attribution, plots.plot_changes])
    yield plots.plot_candidates([found, found])
