"""Audits for the report page: real ones of made-up answers, and what no model was asked for, made up."""

import base64
import copy
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from hf_compalign.measure.attribution import SIMILARITIES, AttributionAgreement, Explanation, SimilarityRow
from hf_compalign.measure.audit import AuditOptions, CostRow, audit, metrics_beside_fields
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import Estimate

_SENTENCE = "the film is a slow warm story of people who never say what they mean but it works and ends well"
WORDS = _SENTENCE.split()
GROUPS = {"target": ("women", "men", "religion", "origin", "none"), "length": ("1 to 9 words", "10 to 20 words")}
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


def text_audit(**options):
    """`made_audit` as the dict that a page reads."""
    return metrics_beside_fields(made_audit(**options).to_dict())


def made_audit(*, n=4000, n_classes=3, n_items=300, limits=True, seed=0, name="pruned-aligned", quality=1.0):
    """Texts, two attributes of groups, explanations for every third item; `quality` 2 halves the mismatches."""
    rng = np.random.default_rng(seed)
    names = ["negative", "neutral", "positive"] if n_classes == 3 else [f"class {i}" for i in range(n_classes)]
    labels = rng.integers(0, n_classes, n)
    reference = np.where(rng.random(n) < 0.88, labels, rng.integers(0, n_classes, n))
    candidate = np.where(rng.random(n) < 0.12 / quality, rng.integers(0, n_classes, n), reference)
    rerun = np.where(rng.random(n) < 0.24, rng.integers(0, n_classes, n), reference)
    members = {attribute: rng.choice(groups, n).tolist() for attribute, groups in GROUPS.items()}
    members["target"][:12] = ["few"] * 12
    models = {"org/original": reference, f"/home/someone/runs/{name}": candidate, "runs/seed-1": rerun}
    sides = [answering(one, labels, names, rng, model=model) for model, one in models.items()]
    found = audit(
        *sides[:2],
        groups=members,
        floor=sides[2],
        limits={"mismatch_rate": 0.1, "nfr": 0.03} if limits else None,
        options=AuditOptions(max_items=n_items),
    )
    return replace(
        found,
        items=tuple(_asked(item, place, rng) for place, item in enumerate(found.items)),
        attribution=_attribution(),
        size_bytes=(437_000_000, int(437e6 / (1 + quality))),
        latency=(Latency(41.2, 40.1, 42.9), Latency(30.5 / quality, 29.9 / quality, 31.4 / quality)),
        machine="2 CPU cores",
        costs=(CostRow("parameters", "109,483,778", "66,955,010", "0.61"),),
    )


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


def many_labels_audit(*, n=1500, n_classes=77):
    """Labels as those of BANKING77: long, and without a space."""
    found = text_audit(n=n, n_classes=n_classes, limits=False)
    words = ("wrong", "exchange", "rate", "for", "cash", "withdrawal", "beneficiary", "not", "allowed")
    names = ["_".join([*words[place % 9 :], *words[: place % 4], str(place)]) for place in range(n_classes)]
    for row in found["per_class"]:
        row["name"] = names[row["label"]]
    return found | {"label_names": names}


def unlabeled_audit(*, n=400):
    """No label is known, so that most of the numbers are not either."""
    rng = np.random.default_rng(3)
    reference = rng.integers(0, 3, n)
    candidate = np.where(rng.random(n) < 0.05, (reference + 1) % 3, reference)
    found = audit(*(answering(one, [-100] * n, ["a", "b", "c"], rng) for one in (reference, candidate)))
    found = replace(found, items=tuple(_asked(item, place, rng) for place, item in enumerate(found.items)))
    return metrics_beside_fields(found.to_dict())


def same_audit(*, n=200):
    """A model against itself."""
    labels = np.arange(n) % 2
    model = answering(labels, labels, ["no", "yes"], np.random.default_rng(0), model="runs/pruned")
    return metrics_beside_fields(audit(model, model).to_dict())


def answering(answers, labels, names, rng, **about):
    """Predictions with these answers, each sure to its own degree."""
    sure = rng.uniform(1, 5, len(answers))[:, None]
    logits = np.eye(len(names))[answers] * sure + rng.uniform(0, 0.9, (len(answers), len(names)))
    return Predictions(logits, labels, [f"row-{place}" for place in range(len(answers))], names, **about)


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


def _asked(item, place, rng):
    """An item with a text, and each third with an explanation."""
    words = rng.choice(WORDS, rng.integers(6, 30)).tolist()
    explanation = None
    if place % 3 == 0:
        tokens = [part for word in words for part in ((word,) if len(word) < 5 else (word[:4], f"##{word[4:]}"))]
        scores = (tuple((one / np.abs(one).max()).tolist()) for one in rng.normal(0, 0.4, (2, len(tokens))))
        explanation = Explanation("text", item.reference, tuple(tokens), None, *scores)
    return replace(item, texts=(" ".join(words).capitalize() + ".",), explanation=explanation)


def _attribution():
    """How alike the explanations are; none were made."""
    estimates = [Estimate(value, value - 0.05, value + 0.05) for value in (0.7, 0.74, 0.41, 0.08, 0.93)]
    rows = tuple(SimilarityRow(name, *estimates) for name in SIMILARITIES)
    return AttributionAgreement("text", "layer_integrated_gradients", 200, 100, 100, 0, 5, 0.01, 0.012, rows)


def limit(audit, name, limit):
    """The verdict on another limit."""
    value, bound = audit[name], audit[f"{name}_upper_bound"]
    row = {"name": name, "limit": limit, "value": value, "upper_bound": bound, "passed": bound <= limit}
    return row | {"not_judged": [], "attribute": "", "lower_bound": audit[f"{name}_interval"][0]}
