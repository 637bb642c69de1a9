"""Whether answers change more often in a slice than elsewhere."""

from collections.abc import Sequence

from hf_compalign.measure.slices.features import Mask
from hf_compalign.measure.slices.record import Condition, SliceRow
from hf_compalign.measure.statistics import benjamini_hochberg, excess_p_value, rate, wilson_interval


def tested(conditions: Sequence[Condition], members: Sequence[Mask], changed: Mask, *, level: float) -> list[SliceRow]:
    """Each slice against all other items, the smallest p-value first.

    Args:
        conditions: what the items of each slice have in common.
        members: the items of each, bool [N].
        changed: the items that the candidate answers differently, bool [N].
        level: the false discovery rate.
    """
    n, total = len(changed), int(changed.sum())
    inside = [(int((mask & changed).sum()), int(mask.sum())) for mask in members]
    p_values = [float(excess_p_value(k, size, total, n)) for k, size in inside]
    rows = [
        SliceRow(
            condition=condition,
            n=size,
            mismatches=k,
            mismatch_rate=rate(k, size),
            mismatch_rate_interval=wilson_interval(k, size),
            rest_rate=rate(total - k, n - size),
            p_value=p_value,
            p_adjusted=float(adjusted),
            worse=bool(adjusted <= level),
        )
        for condition, (k, size), p_value, adjusted in zip(
            conditions, inside, p_values, benjamini_hochberg(p_values), strict=True
        )
    ]
    return sorted(rows, key=lambda row: row.p_value)
