"""What an evaluation notes of both models' answers: sums, in the memory that a training needs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_compalign.align import agreement, kl_loss, parts
from hf_compalign.measure.statistics import alignment_metrics, value_metrics
from hf_compalign.models import widest_float
from hf_compalign.tasks import Items

pytestmark = pytest.mark.numeric


def items_of(n, *, positions=(6,), classes=4, seed=0):
    """The items of a batch, some of them padding, some without a label; and the teacher's logits."""
    torch.manual_seed(seed)
    student, teacher = torch.randn(2, n, *positions, classes)
    labels = torch.randint(0, classes, (n, *positions))
    labels[torch.rand(labels.shape) < 0.3] = -100
    mask = torch.rand(labels.shape) < 0.7
    student[~mask] = torch.nan  # of what is no item, nothing may be counted
    return Items(student, labels, mask), teacher


class Gathered:
    """Gathers examples as the Trainer does: of a last batch that was filled up, the first so many."""

    def __init__(self):
        self.shapes, self.kept = [], None

    def __call__(self, rows):
        self.shapes.append(tuple(rows.shape))
        return rows[: self.kept]


def test_sums_over_batches_are_the_metrics_of_all_items():
    # The second batch has longer texts, and its last example only fills it up.
    batches, gather, noted = [items_of(3), items_of(3, positions=(9,), seed=1)], Gathered(), agreement.Agreement()
    noted.add(*batches[0], gather)  # of the evaluation before
    noted.begin()
    columns = []
    for (items, teacher), kept in zip(batches, (3, 2), strict=True):
        gather.kept = kept
        noted.add(items, teacher, gather)
        values = [teacher.argmax(-1), items.logits.argmax(-1), items.labels, kl_loss(items.logits, teacher, None)]
        columns.append([value[:kept][items.mask[:kept]] for value in values])
    whole = alignment_metrics(*(torch.cat(column).numpy() for column in zip(*columns, strict=True)))
    assert whole["cie_u"] > 0
    assert noted.metrics(aligns=False) == pytest.approx(whole)
    # A row for each example goes from process to process, however many items it has.
    assert {shape[0] for shape in gather.shapes} == {3}
    assert len(set(gather.shapes)) == 1


def test_without_labels_there_is_no_metric_that_needs_them_and_without_items_there_is_none():
    noted, (items, teacher) = agreement.Agreement(), items_of(3)
    assert noted.metrics(aligns=True) == {}
    noted.add(Items(items.logits, torch.full_like(items.labels, -100), items.mask), teacher, Gathered())
    found = noted.metrics(aligns=True)
    assert sorted(found) == ["agreement", "cie", "kl", "mismatch_rate"]
    assert 0 < found["cie"] < items.mask.sum()


def test_values_are_those_of_the_regression():
    noted, gather, (items, teacher) = agreement.Agreement(categorical=False), Gathered(), items_of(4, classes=1)
    gather.kept = 3
    noted.add(items, teacher, gather)
    kept = items.mask[:3]
    expected = value_metrics(teacher[:3][kept].squeeze(-1).numpy(), items.logits[:3][kept].squeeze(-1).numpy())
    assert noted.metrics(aligns=True) == pytest.approx(expected)


def test_the_divergence_of_many_logits_is_computed_in_parts(monkeypatch):
    items, teacher = items_of(3, positions=(9,))
    seen = []

    def noting(student, *given):
        seen.append(student.numel())
        return kl_loss(student, *given)

    monkeypatch.setattr(agreement, "kl_loss", noting)
    found = []
    for whole in (2**24, 0):
        monkeypatch.setattr(parts, "WHOLE", whole)
        monkeypatch.setattr(parts, "PART", 20)
        seen.clear()
        noted = agreement.Agreement()
        noted.add(items, teacher, Gathered())
        found.append(noted.metrics(aligns=False))
    assert max(seen) <= 20
    assert found[0] == pytest.approx(found[1])


class NoDoubles(TorchDispatchMode):
    """A device without float64, as Apple's."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return found


@pytest.mark.parametrize("classes", [4, 1])
def test_a_device_without_float64_is_not_asked_for_it(classes, monkeypatch):
    assert widest_float(torch.device("mps")) == torch.float32
    items, teacher = items_of(3, classes=classes)
    found = []
    for narrow in (False, True):
        noted, device = agreement.Agreement(categorical=classes > 1), NoDoubles()

        def gather(rows, leave=device.__exit__, narrow=narrow):
            if narrow:
                leave(None, None, None)  # what comes after is on the CPU
            return rows

        if narrow:
            monkeypatch.setattr(agreement, "widest_float", lambda device: torch.float32)
            device.__enter__()
        noted.add(items, teacher, gather)
        found.append(noted.metrics(aligns=False))
    assert found[0] == pytest.approx(found[1])
