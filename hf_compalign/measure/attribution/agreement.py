"""Do two models answer for the same reasons? How alike what they look at is, beside a floor and a repeat."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hf_compalign.measure.attribution.items import drawn, items_asked, logits_of_items
from hf_compalign.measure.attribution.methods import Attribution
from hf_compalign.measure.attribution.options import AttributionOptions
from hf_compalign.measure.attribution.pair import Explained, Pair, opened_pair
from hf_compalign.measure.attribution.record import SIMILARITIES, AttributionAgreement, Explanation, SimilarityRow
from hf_compalign.measure.attribution.similarity import similarities
from hf_compalign.measure.predictions import Columns, Predictions, Reader, RowItems, ids_of, is_raw, predict, same_items
from hf_compalign.measure.statistics import mean_estimate
from hf_compalign.models import evaluating

logger = logging.getLogger(__name__)

# As a share of the explained difference of logits: with a larger gap the integral needs more steps.
_MOST_GAP = 0.05


def attribution_agreement(
    reference: PreTrainedModel | str | Path,
    candidate: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    predictions: tuple[Predictions, Predictions] | None = None,
    processing_class: Any = None,
    columns: Columns | None = None,
    options: AttributionOptions | None = None,
) -> tuple[AttributionAgreement, dict[str, Explanation]]:
    """How alike the attributions of two models are, on a sample of items.

    Both explain the reference's answer, whatever the candidate's is. A text has a score for each token that is neither
    special nor padding: that of its word embedding, summed over the features. The baseline of layer integrated
    gradients (https://huggingface.co/papers/1703.01365) has padding in their place. An image has a score for each cell
    of a grid: that of its pixels, summed over the channels. The baseline is 0, the mean color of a normalized image.
    Saliency sums absolute gradients; all other scores are signed.

    What is explained is the logit of the answer. That of a word is the one at its first token, and all tokens of the
    text have a score for it. A label, answered with yes or no, has one logit, which speaks for yes: no similarity
    depends on a sign that both share.

    The sample is drawn uniformly from all items: "all", the floor and the repeat are means over it. Where it holds
    few mismatches, more are drawn uniformly from the mismatches. They count for "mismatches" alone. Where examples have
    several items, words or labels, examples are drawn, and of each one of its items; nor are two of the mismatches of
    one example. So what a mean is over is independent, and its interval is one over examples.

    The floor is what an unrelated model reaches: the reference against itself with random weights, but for the word
    embeddings. A random head alone would make no unrelated model: what the head of a fine-tuned classifier reads points
    in one direction for each answer, so any head finds the same tokens. The repeat is what the method leaves open: the
    reference against itself with another baseline (the mask token or else the unknown one, or without a tokenizer the
    mean of the embedding table; the image's own mean color). Saliency and input x gradient have no baseline: they read
    their input with noise of a tenth of its standard deviation. A candidate above the repeat differs less than two
    choices of the method do.

    Args:
        reference: the model to preserve: a module, a folder or a Hub id; for occlusion also a file.
        candidate: the model to compare with it. It may be another architecture that reads the same tokens.
        dataset: raw texts or images, or already tokenized texts or pixel values.
        predictions: of both models on just these rows; by default both predict here.
        processing_class: the tokenizer or image processor of both; by default those saved beside the models. Without
            one, prepared texts show padding and special tokens only by the ids in the config.
        columns: where to find what in a raw dataset.
        options: method, numbers of items and seed.

    Returns:
        The agreement, and the explanation of each item by its id in the predictions.

    Raises:
        ValueError: a model that no gradient passes through, models that read other tokens, sizes or tasks, or
            predictions of other rows.
        ImportError: captum is not installed; says the pip command.
    """
    pair = opened_pair(
        reference, candidate, dataset, processing_class=processing_class, columns=columns, options=options
    )
    with evaluating(pair.reference.network, pair.candidate.network):
        sides = pair.reference, pair.candidate
        ours, theirs = predictions or (_answers(side, dataset, columns) for side in sides)
        items = items_asked(pair.reference, dataset, pair.columns)
        _check_rows(ours, items, dataset, pair)
        same = same_items(ours, [theirs])
        answers = [model.predicted for model in same.models]
        changed = answers[0] != answers[1]
        sample, more = drawn(changed, same.counted, items, pair.options)
        chosen = [*sample, *more]
        found = pair.explained(dataset, logits_of_items(items, chosen, answers[0]), n_bounded=len(sample))
    explanations = {str(ours.ids[item]): one.explanation() for item, one in zip(chosen, found, strict=True)}
    return _agreement(found, changed[chosen], len(sample), pair), explanations


def explain(
    reference: PreTrainedModel | str | Path,
    candidate: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    targets: Sequence[int] | None = None,
    processing_class: Any = None,
    columns: Columns | None = None,
    options: AttributionOptions | None = None,
) -> list[Explanation]:
    """What both models look at in every item of a dataset, in the order of `predict`, as in `attribution_agreement`.

    ``targets`` are the reference's class to explain in each item, by default its answer; a label has one logit. The
    numbers of items in the options do not matter here: each word and each label is explained, so give few rows.

    Raises:
        ValueError: as `attribution_agreement`, or targets that are not one class of the reference for each item.
    """
    pair = opened_pair(
        reference, candidate, dataset, processing_class=processing_class, columns=columns, options=options
    )
    items = items_asked(pair.reference, dataset, pair.columns)
    if targets is not None:
        _check_targets(targets, items, pair.reference)
    with evaluating(pair.reference.network, pair.candidate.network):
        asked = _answers(pair.reference, dataset, columns).predicted if targets is None else targets
        found = pair.explained(dataset, logits_of_items(items, range(len(items.rows)), asked))
    return [one.explanation() for one in found]


def _answers(side: Reader, dataset: Dataset, columns: Columns | None) -> Predictions:
    return predict(side.network, dataset, processing_class=side.processing_class, columns=columns)


def _check_targets(targets: Sequence[int], items: RowItems, reference: Reader) -> None:
    if items.task.yes_or_no:
        raise ValueError("A label has one logit, which is explained. Leave targets= out.")
    n, n_labels = len(items.rows), reference.network.config.num_labels
    if not (len(targets) == n and all(0 <= target < n_labels for target in targets)):
        raise ValueError(
            f"targets must be one class in [0, {n_labels}) for each of the {n} "
            f"{'rows' if items.examples is None else 'items'}. Got {len(targets)}: {list(targets)[:5]}."
        )


def _check_rows(predictions: Predictions, items: RowItems, dataset: Dataset, pair: Pair) -> None:
    task, n = pair.reference.task, len(items.rows)
    if len(predictions) != n:
        got = f"{len(predictions)} items in place of {n}"
    elif is_raw(dataset, task) and predictions.ids.tolist() != items.ids(ids_of(dataset, task, pair.columns)).tolist():
        got = "those of other rows, or in another order"
    else:
        return
    raise ValueError(
        f"predictions must be those of the {len(dataset)} rows of the dataset, in its order. Got {got}. Predict "
        "with both models on this dataset, or leave them out."
    )


def _agreement(found: list[Explained], changed: NDArray[np.bool_], n_sample: int, pair: Pair) -> AttributionAgreement:
    options = pair.options
    sampled = np.arange(len(found)) < n_sample
    versus = {
        name: [_alike(one.reference, getattr(one, name), options.top_k) for one in found]
        for name in ("candidate", "floor", "repeat")
    }
    # The columns of a SimilarityRow: whose attributions, of which items.
    columns = [("candidate", items) for items in (sampled, sampled & ~changed, changed)]
    columns += [("floor", sampled), ("repeat", sampled)]
    rows = []
    for similarity in SIMILARITIES:
        values = {name: np.array([one[similarity] for one in items]) for name, items in versus.items()}
        means = (mean_estimate(values[name][items], seed=options.seed) for name, items in columns)
        rows.append(SimilarityRow(similarity, *means))
    return AttributionAgreement(
        kind=pair.kind,
        method=options.method_for(pair.kind),
        n_items=n_sample,
        n_agreeing=int((sampled & ~changed).sum()),
        n_mismatches=int(changed.sum()),
        seed=options.seed,
        top_k=options.top_k,
        convergence_delta_reference=_delta("reference", [one.reference for one in found], options.n_steps),
        convergence_delta_candidate=_delta("candidate", [one.candidate for one in found], options.n_steps),
        rows=tuple(rows),
    )


def _alike(ours: Attribution, theirs: Attribution | None, top_k: int) -> dict[str, float]:
    if theirs is None:
        return dict.fromkeys(SIMILARITIES, math.nan)
    return similarities(ours.scores, theirs.scores, top_k=top_k)


def _delta(who: str, found: list[Attribution], n_steps: int) -> float:
    """Mean absolute gap between the sum of the scores and the difference of logits that they explain."""
    gap, explained = np.abs([(one.delta, one.difference) for one in found]).mean(axis=0).tolist()
    if gap > _MOST_GAP * explained:
        logger.warning(
            "The attributions of the %s add up to the logit only within %.2g, of %.2g on average: %d steps are few, or "
            "rounding hides the gradients. Raise n_steps.",
            who,
            gap,
            explained,
            n_steps,
        )
    return gap
