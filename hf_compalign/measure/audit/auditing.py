"""Is the candidate still the same model as the reference? One call, from the models or from their answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.data import check_rows
from hf_compalign.measure.attribution import AttributionOptions, attribution_agreement, opened_pair
from hf_compalign.measure.audit.comparing import checked_limits, compared
from hf_compalign.measure.audit.contents import with_attribution, with_contents
from hf_compalign.measure.audit.opened import Opened, groups_of_items, opened_sides, task_in
from hf_compalign.measure.audit.options import AuditOptions
from hf_compalign.measure.audit.record import Audit, CostRow
from hf_compalign.measure.footprint import footprint, footprint_section, latencies_on, machine_name, timing_device
from hf_compalign.measure.groups import Membership, attributes_of
from hf_compalign.measure.predictions import Columns, Predictions, ids_of, is_raw
from hf_compalign.measure.slices import Slices, check_slices, find_slices
from hf_compalign.models import file_models

_TIMED_BATCH = 8


def audit(  # noqa: PLR0913 - both models, what they are asked, and what they are held against
    reference: Predictions | PreTrainedModel | str | Path,
    candidate: Predictions | PreTrainedModel | str | Path,
    dataset: Dataset | None = None,
    *,
    groups: Membership | Mapping[str, Membership] | None = None,
    limits: Mapping[str, float] | None = None,
    floor: Predictions | PreTrainedModel | str | Path | None = None,
    attribution: AttributionOptions | None = None,
    options: AuditOptions | None = None,
) -> Audit:
    """Ask two models the same items, compare their answers, and judge them against limits.

    Items are paired by id and classes by name. Items that either side masks out do not count. A limit is kept
    when the one-sided 95 % upper bound (Clopper-Pearson of a rate, bootstrap of a gap) is within it: too few items
    never pass. McNemar's test is reported but certifies nothing, as it is blind to flips that cancel out.

    >>> from hf_compalign.measure.predictions import Predictions
    >>> ids, names = [str(i) for i in range(200)], ["no", "yes"]
    >>> model = Predictions([[1.0, 0.0]] * 200, [0] * 200, ids, names)
    >>> audit(model, model, limits={"mismatch_rate": 0.02}).passed
    True

    Args:
        reference: the model to preserve: a module, a folder, a Hub id or an exported file; or its `Predictions`, or
            an .npz file of them.
        candidate: the model that should answer like it: the same.
        dataset: what the models are asked, as for `hf_compalign.predict`. Two `Predictions` need it only for columns
            and contents, and must be of its rows.
        groups: the group of each item, in the order of the reference's items: a name, several names where groups
            overlap, or None. With a dataset also columns of it: one, a tuple of columns to cross, or a list of both.
            For several attributes a dict of any of these by their names. Needs fairlearn:
            ``pip install 'hf-compalign[fairness]'``.
        limits: the largest acceptable ``mismatch_rate``, ``nfr``, ``flip_rate`` or ``pfr``; with groups also
            ``group_mismatch_gap`` (the largest gap between the mismatch rates of two groups),
            ``worst_group_accuracy_drop`` (of the accuracy of the worst group, from reference to candidate), and the
            candidate's own ``demographic_parity_difference``, ``equal_opportunity_difference`` or
            ``equalized_odds_difference`` (the worst over the classes). Each is in [0, 1].
        floor: another uncompressed training, such as one from another seed: a model or predictions. It shows how often
            two models differ without any compression.
        attribution: also compare what both models look at, as `hf_compalign.attribution_agreement` does.
        options: how the models are asked, and what is added.

    Returns:
        The audit, with its predictions. Of two models it also has what they cost.

    Raises:
        ValueError: a model without a dataset, whatever `predict` and `attribution_agreement` refuse, other items,
            labels or inputs on the two sides, groups of another length, nothing to compare, or a limit that is
            unknown, outside [0, 1] or needs labels or groups where there are none.
        ImportError: there are groups, and fairlearn is not installed.
    """
    options = options or AuditOptions()
    columns = Columns.of(options.columns)
    if dataset is not None:
        check_rows(dataset)
    limits = checked_limits(limits or {}, grouped=groups is not None or bool(options.bins))
    attributes = attributes_of(groups, options.bins, dataset, text=columns.text)
    given = {"reference": reference, "candidate": candidate} | ({} if floor is None else {"floor": floor})
    sides = opened_sides(given, dataset, options)
    models = [side for name, side in sides.items() if name != "floor" and isinstance(side, Opened)]
    pair = (models[0], models[1]) if len(models) == 2 else None
    _refuse_what_is_missing(pair, dataset, attribution, options)
    explained: dict[str, Any] = {}
    if pair is not None and attribution is not None:
        explained = {"reference": pair[0].network, "candidate": pair[1].network, "dataset": dataset}
        explained |= {"processing_class": options.processing_class, "columns": options.columns, "options": attribution}
        opened_pair(**explained)  # refuses what has no explanation before all rows are asked
    answers = {name: side if isinstance(side, Predictions) else side.answers() for name, side in sides.items()}
    if dataset is None:
        members = groups_of_items(attributes, None, answers["reference"])
        return compared(answers, groups=members, limits=limits, options=options)
    task = task_in(sides, dataset, columns)
    # The name of each row: as a model that was just asked has it, or worked out anew.
    asked = [
        answers[name].ids for name, side in sides.items() if isinstance(side, Opened) and answers[name].examples is None
    ]
    ids = (asked[0] if asked else ids_of(dataset, task, columns)).tolist()
    members = groups_of_items(attributes, ids, answers["reference"])
    found = compared(answers, groups=members, limits=limits, options=options)
    if options.contents and is_raw(dataset, task):
        found = with_contents(found, dataset, ids=ids, task=task, columns=columns)
    if options.slices:
        found = replace(found, slices=_slices(options.slices, answers, dataset, columns))
    if pair is not None:
        found = _with_costs(found, pair)
    if explained:
        both = answers["reference"], answers["candidate"]
        agreement, explanations = attribution_agreement(predictions=both, **explained)
        found = with_attribution(found, agreement, explanations if options.contents else {})
    return found


def _slices(wanted: Slices | bool, answers: Mapping[str, Predictions], dataset: Dataset, columns: Columns) -> Slices:
    """Given slices checked, or new ones."""
    both = answers["reference"], answers["candidate"]
    if isinstance(wanted, Slices):
        return check_slices(wanted, *both, dataset, columns=columns)
    return find_slices(*both, dataset, columns=columns)


def _refuse_what_is_missing(
    pair: tuple[Opened, Opened] | None,
    dataset: Dataset | None,
    attribution: AttributionOptions | None,
    options: AuditOptions,
) -> None:
    for name, is_wanted in {"contents": options.contents, "slices": bool(options.slices)}.items():
        if dataset is None and is_wanted:
            raise ValueError(
                f"{name} are of what was asked, and there is no dataset to take it from. Give dataset= too."
            )
    for name, is_wanted in {"attribution=": attribution is not None, "latency=True": options.latency}.items():
        if is_wanted and pair is None:
            raise ValueError(
                f"{name} needs the models, and predictions hold only their answers. Give both models and dataset=, or "
                "leave it out."
            )


def _with_costs(found: Audit, pair: tuple[Opened, Opened]) -> Audit:
    """With the bytes of both models, and their latencies if these are wanted."""
    reference, candidate = pair
    sizes = footprint(reference.network, where=reference.path), footprint(candidate.network, where=candidate.path)
    latencies = None
    if reference.options.latency:
        device = timing_device(files=any(file_models(side.network) for side in pair))
        models = {str(place): (side.network, side.processor) for place, side in enumerate(pair)}
        columns, batches = reference.options.columns, (_TIMED_BATCH,)
        timed = latencies_on(reference.dataset, models, columns=columns, batch_sizes=batches, device=device)
        latencies = timed["0"][_TIMED_BATCH], timed["1"][_TIMED_BATCH]
        machine = f"{machine_name(device)}, batches of {_TIMED_BATCH}"
        found = replace(found, latency=latencies, machine=machine)
    rows = footprint_section(*sizes, latencies=latencies).tables[0].rows
    costs = tuple(CostRow(*map(str, row)) for row in rows)
    return replace(found, costs=costs, size_bytes=(sizes[0].size_bytes, sizes[1].size_bytes))
