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

from hf_compalign.measure.attribution.methods import Attribution
from hf_compalign.measure.attribution.options import AttributionOptions
from hf_compalign.measure.attribution.pair import Explained, Pair, opened_pair
from hf_compalign.measure.attribution.record import SIMILARITIES, AttributionAgreement, Explanation, SimilarityRow
from hf_compalign.measure.attribution.similarity import similarities
from hf_compalign.measure.predictions import Columns, Predictions, Reader, ids_of, is_raw, predict, same_items
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

    The sample is drawn uniformly from all items: "all", the floor and the repeat are means over it. Where it holds
    few mismatches, more are drawn uniformly from the mismatches. They count for "mismatches" alone.

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
        _check_rows(ours, dataset, pair)
        same = same_items(ours, [theirs])
        answers = [model.predicted for model in same.models]
        changed = answers[0] != answers[1]
        sample, more = _sampled(changed, same.counted, pair.options)
        rows = [*sample, *more]
        found = {one.row: one for one in pair.explained(dataset, rows, answers[0][rows], n_bounded=len(sample))}
    explanations = {str(ours.ids[row]): found[row].explanation() for row in rows}
    return _agreement([found[row] for row in rows], changed[rows], len(sample), pair), explanations


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
    """What both models look at in every row of a dataset, as in `attribution_agreement`.

    ``targets`` are the reference's class to explain in each row, by default its answer. The numbers of items in the
    options do not matter here.

    Raises:
        ValueError: as `attribution_agreement`, or targets that are not one class of the reference for each row.
    """
    pair = opened_pair(
        reference, candidate, dataset, processing_class=processing_class, columns=columns, options=options
    )
    n_rows, n_labels = len(dataset), pair.reference.network.config.num_labels
    if targets is not None and not (len(targets) == n_rows and all(0 <= target < n_labels for target in targets)):
        raise ValueError(
            f"targets must be one class in [0, {n_labels}) for each of the {n_rows} rows. Got {len(targets)}: "
            f"{list(targets)[:5]}."
        )
    with evaluating(pair.reference.network, pair.candidate.network):
        asked = _answers(pair.reference, dataset, columns).predicted if targets is None else targets
        found = {one.row: one for one in pair.explained(dataset, range(n_rows), asked)}
    return [found[row].explanation() for row in range(n_rows)]


def _answers(side: Reader, dataset: Dataset, columns: Columns | None) -> Predictions:
    return predict(side.network, dataset, processing_class=side.processing_class, columns=columns)


def _check_rows(predictions: Predictions, dataset: Dataset, pair: Pair) -> None:
    task = pair.reference.task
    if len(predictions) != len(dataset):
        got = f"{len(predictions)} items"
    elif is_raw(dataset, task) and predictions.ids.tolist() != ids_of(dataset, task, pair.columns).tolist():
        got = "those of other rows, or in another order"
    else:
        return
    raise ValueError(
        f"predictions must be those of the {len(dataset)} rows of the dataset, in its order. Got {got}. Predict "
        "with both models on this dataset, or leave them out."
    )


def _sampled(
    changed: NDArray[np.bool_], counted: NDArray[np.int64], options: AttributionOptions
) -> tuple[list[int], list[int]]:
    """Rows drawn from all that count, and as many more mismatches as are wanted."""
    order = np.random.default_rng(options.seed).permutation(counted)
    sample, rest = order[: options.n_items], order[options.n_items :]
    n_missing = max(0, options.n_mismatches - int(changed[sample].sum()))
    return sample.tolist(), rest[changed[rest]][:n_missing].tolist()


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
