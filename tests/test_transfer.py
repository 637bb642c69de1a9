"""Inputs that only a teacher can answer: what is made of a batch, when it is made, and what is refused."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    BatchEncoding,
    HfArgumentParser,
    ImageGPTConfig,
    ImageGPTForImageClassification,
    Siglip2Config,
    Siglip2ForImageClassification,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, cache_teacher_logits
from hf_compalign.align import IMAGE_KINDS, TEXT_KINDS, Images, Texts, Tokens, Transfer, splice

pytestmark = pytest.mark.numeric

ALONE = SimpleNamespace(num_processes=1)
CLS, SEP, MASK, UNK = 1, 2, 3, 4
PADDING = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}
TOKENS = Tokens((0, CLS, SEP, MASK), PADDING, mask=MASK)
SHARE = AlignmentArguments(transfer=0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=6, size=8, channels=2, seed=0):
    return torch.randn(n, channels, size, size, generator=generator(seed))


def padded(*texts, width=None, left=False, **columns):
    """A batch of rows of ids."""
    width = width or max(map(len, texts))
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, width - len(text) if left else 0 : width if left else len(text)] = torch.tensor(text)
    types = [[int(SEP in text[:place]) for place in range(len(text))] for text in texts]
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()} | columns
    if not left:
        batch["token_type_ids"] = torch.tensor([row + [0] * (width - len(row)) for row in types])
    return batch


def words(batch):
    return [[token for token in row if token] for row in batch["input_ids"].tolist()]


def transferred(batch, *kinds, share=1.0, inputs=None, step=0, seed=3, accelerator=ALONE):
    inputs = inputs or (Images() if "pixel_values" in batch else Texts(TOKENS))
    transfer = Transfer(share, kinds, inputs, label="labels")
    return transfer([batch], seed, step, accelerator)[0]


# ---- images ----


def test_a_mixed_pair_lies_between_its_two_images():
    pixels, rows, partners = pictures(), torch.tensor([0, 4]), torch.tensor([3, 1])
    mixed = IMAGE_KINDS["mixup"](pixels, rows, partners, generator())
    shares = torch.rand(2, generator=generator())
    for image, share, row, partner in zip(mixed, shares, rows, partners, strict=True):
        assert tiny.distance(image, share * pixels[row] + (1 - share) * pixels[partner]) < tiny.ROUNDING
    assert torch.equal(IMAGE_KINDS["mixup"](pixels, rows, rows, generator()), pixels[rows])


def test_a_rectangle_of_the_partner_is_pasted():
    pixels = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 2, 64, 48)
    rows = torch.zeros(200, dtype=torch.long)
    pasted = IMAGE_KINDS["cutmix"](pixels, rows, rows + 1, generator())
    assert {*pasted.unique().tolist()} == {0.0, 1.0}
    across, down = pasted.amax((1, 2)), pasted.amax((1, 3))
    assert torch.equal(pasted, (across[:, None, None] * down[:, None, :, None]).expand_as(pasted))
    for sides in (across, down):  # of one piece
        assert (sides.diff(dim=1).abs().sum(1) <= 2).all()
    # Of a square with side s, the border leaves s (1 - s / 4) of each side on average: integral of s^2 (1 - s/4)^2 2s.
    expected = 2 * (1 / 4 - 1 / 10 + 1 / 96)
    assert pasted.mean().item() == pytest.approx(expected, abs=0.04)
    itself = torch.arange(6)
    assert torch.equal(IMAGE_KINDS["cutmix"](pictures(), itself, itself, generator()), pictures())


def test_a_crop_shows_a_part_at_the_whole_size():
    down, across = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    rows = torch.zeros(50, dtype=torch.long)
    crops = IMAGE_KINDS["crop"](torch.stack([down, across])[None], rows, rows, generator())
    assert crops.shape == (50, 2, 12, 16)
    lows, highs = crops.amin((2, 3)), crops.amax((2, 3))
    assert (lows > -1e-4).all()
    assert (highs < torch.tensor([11.0, 15.0]) + 1e-4).all()
    shown = highs - lows + 1
    areas = shown.prod(1) / (12 * 16)
    assert 0.2 < areas.min() < 0.4
    assert 0.8 < areas.max() < 1 + 1e-4
    ratios = (shown[:, 1] / 16) / (shown[:, 0] / 12)
    assert (ratios.log().abs() < np.log(1.6)).all()  # 4/3, in whole pixels


def test_noise_is_in_units_of_each_channels_deviation():
    pixels = pictures(100, channels=3) * torch.tensor([0.0, 1.0, 5.0])[:, None, None]
    rows = torch.arange(100)
    drawn = IMAGE_KINDS["noise"](pixels, rows, rows, generator()) - pixels
    assert not drawn[:, 0].any()
    strengths = drawn[:, 1:].std((2, 3)) / pixels.std((0, 2, 3))[1:]
    assert strengths.mean().item() == pytest.approx(0.25, abs=0.03)
    assert strengths.max() < 0.6
    assert (strengths[:, 0] / strengths[:, 1]).log().abs().max() < 0.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_images_keep_their_type_and_shape(kind, dtype):
    batch = {"pixel_values": pictures().to(dtype), "labels": torch.arange(6)}
    made = transferred(batch, kind)
    assert made["pixel_values"].dtype == dtype
    assert made["pixel_values"].shape == batch["pixel_values"].shape
    assert made["pixel_values"].isfinite().all()
    assert not torch.equal(made["pixel_values"], batch["pixel_values"])


# ---- texts ----

PAIR = [CLS, 11, 12, SEP, 13, 14, 15, 16, SEP]


@pytest.mark.parametrize(
    ("first", "second", "draws", "expected"),
    [
        ([CLS, 11, 12, 13, 14, SEP], [CLS, 21, 22, SEP], (0, 0.5), [CLS, 11, 12, 22, SEP]),
        ([CLS, 11, 12, 13, 14, SEP], [CLS, 21, 22, SEP], (0, 0.99), [CLS, 11, 12, 13, 22, SEP]),
        ([CLS, 11, 12, SEP], [CLS, 21, 22, 23, 24, 25, SEP], (0, 0), [CLS, 11, 22, 23, 24, 25, SEP]),
        ([CLS, 11, SEP], [CLS, 21, SEP], (0, 0.7), [CLS, 11, SEP]),
        # The first text of a pair is cut, and the second is the partner's; or the second is cut.
        (PAIR, [CLS, 21, 22, SEP, 23, SEP], (0.2, 0.5), [CLS, 11, 22, SEP, 23, SEP]),
        (PAIR, [CLS, 21, 22, SEP, 23, 24, SEP], (0.7, 0.5), [CLS, 11, 12, SEP, 13, 14, 24, SEP]),
        # Of a pair and a single text only the first segment is common.
        (PAIR, [CLS, 21, 22, SEP], (0.7, 0.5), [CLS, 11, 22, SEP]),
        # RoBERTa parts with two tokens, and a decoder has none at all.
        (
            [CLS, 11, 12, SEP, SEP, 13, 14, SEP],
            [CLS, 21, SEP, SEP, 22, 23, SEP],
            (0.7, 0),
            [CLS, 11, 12, SEP, SEP, 13, 23, SEP],
        ),
        ([11, 12, 13, 14], [21, 22], (0, 0.5), [11, 12, 22]),
        # XLNet's special tokens are at the end; an empty text has no words.
        ([11, 12, SEP, CLS], [21, 22, 23, SEP, CLS], (0, 0), [11, 22, 23, SEP, CLS]),
        ([CLS, SEP], [CLS, 21, SEP], (0, 0.5), [CLS, SEP]),
        ([CLS, 11, SEP], [CLS, SEP], (0, 0.5), [CLS, 11, SEP]),
        # Nine places: the partner's tail begins later, and then the own head ends earlier.
        (
            [CLS, 11, 12, 13, 14, SEP, 15, 16, SEP],
            [CLS, 21, SEP, 22, 23, 24, 25, 26, SEP],
            (0.7, 0.1),
            [CLS, 11, 12, 13, 14, SEP, 15, 26, SEP],
        ),
        (
            [CLS, 11, 12, 13, 14, SEP, 15, SEP],
            [CLS, 21, SEP, 22, 23, 24, 25, 26, SEP],
            (0.2, 0.9),
            [CLS, 11, SEP, 22, 23, 24, 25, 26, SEP],
        ),
    ],
)
def test_the_head_of_one_text_and_the_tail_of_another(first, second, draws, expected):
    batch = padded(first, second, width=9)
    draws = torch.tensor(draws)[:, None]
    made = splice(batch, torch.tensor([0]), torch.tensor([1]), draws, TOKENS)
    (found,) = words(made)
    assert found == expected
    whole = padded(found, width=9)
    assert all(torch.equal(made[name], whole[name]) for name in whole)
    itself = splice(batch, torch.tensor([0, 1]), torch.tensor([0, 1]), draws.expand(2, 2), TOKENS)
    assert all(torch.equal(itself[name], batch[name]) for name in batch)


def test_a_splice_stays_within_the_models_positions():
    batch = padded([CLS, *range(11, 17), SEP], [CLS, *range(21, 27), SEP], width=12)
    one = torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.0], [0.5]])
    short = Tokens((0, CLS, SEP), PADDING, longest=6)
    assert words(splice(batch, *one, TOKENS)) == [[CLS, 11, 12, 13, 24, 25, 26, SEP]]
    assert words(splice(batch, *one, short)) == [[CLS, 11, 12, 13, 26, SEP]]


def of_each_kind(batch, tokens=TOKENS):
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(60, 4)
    texts = Texts(tokens, frozenset(batch), embedding)
    return texts, {kind: transferred(batch, kind, inputs=texts) for kind in TEXT_KINDS}


@pytest.mark.parametrize("left", [False, True])
def test_special_tokens_and_padding_keep_their_places(left):
    rng = np.random.default_rng(0)
    texts = [
        [CLS, *rng.integers(10, 60, n).tolist(), SEP, *rng.integers(10, 60, m).tolist(), SEP]
        for n, m in rng.integers(1, 9, (8, 2))
    ]
    batch = padded(*texts, left=left)
    originals = {tuple(text) for text in texts}
    for kind, made in of_each_kind(batch)[1].items():
        assert made["input_ids"].shape == batch["input_ids"].shape
        assert torch.equal(made["attention_mask"], (made["input_ids"] > 0).long())
        found = words(made)
        assert not {tuple(text) for text in found} & originals
        assert all(
            torch.equal(made[name], again)
            for name, again in padded(*found, width=made["input_ids"].shape[1], left=left).items()
        )
        for text in found:
            assert (text[0], text[-1], text.count(SEP), text.count(CLS)) == (CLS, SEP, 2, 1)
        if kind in ("mask", "replace"):
            assert torch.equal(made["attention_mask"], batch["attention_mask"])


def test_words_are_left_out_masked_or_replaced():
    texts = [[CLS, *range(10 + row, 40 + row), SEP] for row in range(20)]
    made = of_each_kind(padded(*texts))[1]
    for text, dropped, masked, replaced in zip(texts, *(words(made[kind]) for kind in TEXT_KINDS[1:]), strict=True):
        assert dropped == [token for token in text if token in dropped]  # what stays keeps its order
        assert 16 <= len(dropped) < 32
        assert all(new in (old, MASK) for old, new in zip(text, masked, strict=True))
        assert len(replaced) == 32
    shares = [masked.count(MASK) / 30 for masked in words(made["mask"])]
    assert 0 < min(shares) < 0.2
    assert 0.3 < max(shares) < 0.7
    # A text of one word keeps it, or has it replaced.
    one = of_each_kind(padded([CLS, 11, SEP]))[1]
    assert [words(one[kind]) for kind in TEXT_KINDS[:3]] == [[[CLS, 11, SEP]], [[CLS, 11, SEP]], [[CLS, MASK, SEP]]]
    assert words(one["replace"]) != [[CLS, 11, SEP]]


def test_words_are_replaced_by_their_nearest_neighbors():
    batch = padded([CLS, *range(10, 50), SEP])
    texts, made = of_each_kind(batch, Tokens((0, CLS, SEP, MASK), PADDING, mask=MASK, n_ids=55))
    table = texts._embedding.weight.detach()
    similar = F.cosine_similarity(table[:, None], table[None], dim=-1)
    changed = 0
    for old, new in zip(words(batch)[0], words(made["replace"])[0], strict=True):
        ranked = [one for one in similar[old].argsort(descending=True).tolist() if one not in (0, CLS, SEP, MASK, old)]
        ranked = [one for one in ranked if one < 55]  # what is beyond the tokenizer's vocabulary is no word
        assert new == old or new in ranked[:10]
        changed += new != old
    assert changed


def test_a_batch_without_a_mask_gets_none():
    batch = padded([CLS, 11, 12, 13, 14, SEP], [CLS, 21, 22, SEP])
    bare = {"input_ids": batch["input_ids"]}
    made = transferred(bare, "splice")
    assert {*made} == {"input_ids"}
    assert torch.equal(made["input_ids"], transferred(batch, "splice")["input_ids"])


# ---- batches ----


@pytest.mark.parametrize("wrap", [dict, BatchEncoding])
def test_what_is_replaced_has_no_label_and_the_rest_stays(wrap):
    batch = wrap({"pixel_values": pictures(10), "labels": torch.arange(10), "weight": torch.arange(10.0)})
    made = transferred(batch, "mixup", "noise", share=0.4)
    replaced = made["labels"] == -100
    assert replaced.sum() == 4
    assert torch.equal(made["labels"][~replaced], torch.arange(10)[~replaced])
    same = (made["pixel_values"] == batch["pixel_values"]).flatten(1).all(1)
    assert torch.equal(same, ~replaced)
    assert torch.equal(made["weight"], batch["weight"])
    assert torch.equal(batch["labels"], torch.arange(10))  # the given one is not changed


def test_the_share_is_right_on_average_and_1_is_all():
    batch = {"pixel_values": pictures(3), "labels": torch.arange(3)}
    counts = [int((transferred(batch, "crop", share=0.3, step=step)["labels"] < 0).sum()) for step in range(200)]
    assert {*counts} == {0, 1}
    assert np.mean(counts) == pytest.approx(0.9, abs=0.05)
    assert (transferred(batch, "crop")["labels"] == -100).all()
    column = {"pixel_values": pictures(2), "labels": torch.arange(2)[:, None]}
    assert transferred(column, "crop")["labels"].tolist() == [[-100], [-100]]


def test_the_draws_depend_on_the_seed_the_step_and_the_batchs_number():
    batch = {"pixel_values": pictures(6)}
    transfer = Transfer(0.5, ("mixup", "cutmix"), Images(), label="labels")

    def made(seed, step):
        return [one["pixel_values"] for one in transfer([batch, batch], seed, step, ALONE)]

    first = made(3, 7)
    assert all(torch.equal(*pair) for pair in zip(first, made(3, 7), strict=True))
    assert not any(torch.equal(first[0], other) for other in (first[1], *made(4, 7), *made(3, 8)))


def test_the_only_item_of_a_batch_has_itself_for_a_partner():
    image = {"pixel_values": pictures(1), "labels": torch.tensor([1])}
    text = padded([CLS, 11, 12, 13, SEP])
    for batch, kind in ((image, "mixup"), (image, "cutmix"), (text, "splice")):
        made = transferred(batch, kind)
        assert all(torch.equal(made[name], values) for name, values in batch.items() if name != "labels")


class Process:
    """One of several threads that gather as the processes of an accelerator do."""

    def __init__(self, process_index, slots, barrier):
        self.process_index, self.num_processes = process_index, len(slots)
        self.slots, self.barrier = slots, barrier

    def gather(self, values):
        self.slots[self.process_index] = values
        self.barrier.wait(10)
        result = torch.cat(self.slots)
        self.barrier.wait(10)
        return result


def on_processes(batches, *kinds, **options):
    slots, barrier = [None] * len(batches), threading.Barrier(len(batches))
    with ThreadPoolExecutor(len(batches)) as pool:
        runs = [
            pool.submit(transferred, batch, *kinds, share=0.6, accelerator=Process(index, slots, barrier), **options)
            for index, batch in enumerate(batches)
        ]
        return [run.result() for run in runs]


@pytest.mark.parametrize("left", [False, True])
def test_processes_make_of_their_batches_what_one_makes_of_all(left):
    texts = [[CLS, *range(10, 10 + n), SEP] for n in (3, 5, 2, 9, 7)]
    for whole, parts, kinds in (
        (
            {"pixel_values": pictures(5), "labels": torch.arange(5)},
            [
                {"pixel_values": pictures(5)[rows], "labels": torch.arange(5)[rows]}
                for rows in (slice(0, 3), slice(3, 5))
            ],
            tuple(IMAGE_KINDS),
        ),
        (padded(*texts, left=left), [padded(*texts[:3], left=left), padded(*texts[3:], left=left)], TEXT_KINDS[:3]),
    ):
        expected = transferred(whole, *kinds, share=0.6)
        made = on_processes(parts, *kinds)
        for name, values in expected.items():
            assert torch.equal(torch.cat([one[name] for one in made]), values)


# ---- trainings ----


def build(folder, *, student=None, teacher=None, alignment=SHARE, dataset=None, settings=None, **trainer):
    return AlignedDistillationTrainer(
        student or tiny.bert(seed=2),
        tiny.arguments(folder, **(settings or {})),
        teacher=teacher or tiny.bert(seed=1),
        alignment=alignment,
        train_dataset=tiny.texts() if dataset is None else dataset,
        **trainer,
    )


class Steps(AlignedDistillationTrainer):
    """Keeps the batches of each optimizer step."""

    def get_batch_samples(self, *args):
        batches, count = super().get_batch_samples(*args)
        self.steps = [*getattr(self, "steps", []), batches]
        return batches, count


def test_the_terms_are_averaged_over_their_own_items_of_all_accumulated_batches(tmp_path):
    student, teacher = tiny.bert(seed=2), tiny.bert(seed=1)
    before = copy.deepcopy(student).eval()
    settings = {"gradient_accumulation_steps": 3, "max_steps": 1, "logging_steps": 1}
    alignment = AlignmentArguments(preset="paper", transfer=0.5)
    trainer = Steps(
        student, tiny.arguments(tmp_path, **settings), teacher=teacher, alignment=alignment, train_dataset=tiny.texts()
    )
    trainer.train()
    (batches,) = trainer.steps
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    labels = whole.pop("labels")
    assert (labels == -100).sum() == 6
    assert [int((batch["labels"] == -100).sum()) for batch in batches] == [2, 2, 2]
    with torch.no_grad():
        z_s, z_t = before(**whole).logits, teacher(**whole).logits
    logged = trainer.state.log_history[0]
    for name, expected in (
        ("task", F.cross_entropy(z_s, labels)),  # over those with labels
        ("agreement", F.cross_entropy(z_s, z_t.argmax(-1))),
        ("logits", F.mse_loss(z_s, z_t)),
    ):
        assert logged[f"{name}_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_evaluation_is_not_touched(tmp_path):
    rows = tiny.texts(10, seed=5)
    metrics = [build(tmp_path, alignment=one, eval_dataset=rows).evaluate() for one in (SHARE, None)]
    assert metrics[0]["eval_loss"] == metrics[1]["eval_loss"]
    assert metrics[0]["eval_kl"] == metrics[1]["eval_kl"]


@pytest.mark.parametrize("kinds", [None, [*IMAGE_KINDS]])
def test_images_train(tmp_path, kinds):
    gate = {"only_where_teacher_is_right": True, "transfer": 0.5, "transfer_kinds": kinds}
    trained = build(
        tmp_path,
        student=tiny.vit(seed=2),
        teacher=tiny.vit(seed=1),
        dataset=tiny.images(),
        alignment=AlignmentArguments(**gate),
        settings={"max_steps": 2, "bf16": True, "neftune_noise_alpha": None},
    )
    trained.train()
    assert trained._transfer.kinds == tuple(kinds or ["mixup"])
    assert torch.isfinite(tiny.flat(trained.model)).all()


def test_texts_train_with_a_tokenizer_that_pads(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdef"]
    tokenizer = tiny.tokenizer(*words)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    rows = [[2, *np.random.default_rng(n).integers(1, 10, n).tolist(), 3] for n in range(1, 13)]
    columns = {
        "sentiment": [n % 3 for n in range(12)],
        "input_ids": rows,
        "attention_mask": [[1] * len(row) for row in rows],
    }
    trainer = build(
        tmp_path,
        dataset=Dataset.from_dict(columns),
        alignment=AlignmentArguments(transfer=1.0, transfer_kinds=["splice", "replace"]),
        settings={
            "label_names": ["sentiment"],
            "train_sampling_strategy": "group_by_length",
            "neftune_noise_alpha": 1.0,
            "max_steps": 3,
        },
        processing_class=tokenizer,
    )
    trainer.train()
    # The unknown word is a word.
    assert trainer._transfer._inputs.tokens.special == (0, 2, 3)
    assert trainer.state.global_step == 3


def test_labels_are_taken_from_made_inputs_under_whatever_name(tmp_path):
    dataset, settings = tiny.texts().rename_column("labels", "label"), {"label_names": ["label"]}
    trainer = build(tmp_path, dataset=dataset, alignment=AlignmentArguments(transfer=1.0), settings=settings)
    (batch,), _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    assert batch["label"].tolist() == [-100] * 4
    assert "labels" not in batch


def test_a_loss_of_the_users_own_may_get_a_step_without_labels(tmp_path):
    def mean(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    settings = {"per_device_train_batch_size": 1, "max_steps": 4}
    alignment = AlignmentArguments(preset="paper", transfer=0.9)
    trainer = build(tmp_path, alignment=alignment, settings=settings, compute_loss_func=mean)
    trainer.train()
    assert torch.isfinite(tiny.flat(trainer.model)).all()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transfer": 50}, r"transfer must be a share in \[0, 1\]. Got 50. Did you mean 0.5\?"),
        ({"transfer": -0.1}, r"transfer must be a share in \[0, 1\]. Got -0.1. 0.5 replaces half"),
        ({"transfer": float("nan")}, "Got nan"),
        ({"transfer": 0.5, "transfer_kinds": ["mix"]}, r"some of mixup, .*, splice, .*replace. Got \['mix'\]"),
        ({"transfer": 0.5, "transfer_kinds": "mixup"}, "must be a list .* Got 'mixup'"),
        ({"transfer": 0.5, "transfer_kinds": []}, r"must be a list with some of .* Got \[\]"),
        ({"transfer": 1.0, "preset": "kd"}, "task_weight=1 would be ignored: with transfer=1 no item keeps its label"),
        ({"transfer_kinds": ["mixup"]}, "transfer_kinds=.* would be ignored: it needs transfer > 0"),
        (
            {"transfer": 0.5, "preset": "labels"},
            "transfer=0.5 would be ignored: it needs a teacher term with weight > 0",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AlignmentArguments(**options)


def test_the_kinds_are_flags():
    flags = ["--transfer", "0.25", "--transfer_kinds", "mixup", "crop"]
    (alignment,) = HfArgumentParser(AlignmentArguments).parse_args_into_dataclasses(flags)
    assert (alignment.transfer, alignment.transfer_kinds) == (0.25, ["mixup", "crop"])


def test_cached_logits_are_refused(tmp_path):
    cached = cache_teacher_logits(tiny.texts(), tiny.bert(seed=1))
    message = "only a live teacher can answer.* Pass teacher= and remove the column 'teacher_logits'"
    for teacher in (None, tiny.bert(seed=1)):
        with pytest.raises(ValueError, match=message):
            AlignedDistillationTrainer(
                tiny.bert(seed=2), tiny.arguments(tmp_path), teacher=teacher, alignment=SHARE, train_dataset=cached
            )
    with pytest.raises(ValueError, match=message):  # a dataset that does not say its columns
        transferred(tiny.batch(tiny.texts(4)) | {"teacher_logits": torch.zeros(4, 3)}, "splice")


def test_models_that_nothing_can_be_made_for_are_refused(tmp_path):
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_labels": 3,
    }
    patches = Siglip2Config(vision_config=small | {"num_patches": 4, "patch_size": 4}, text_config=small, num_labels=3)
    pixels_as_ids = ImageGPTConfig(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=9, num_labels=3)

    def kinds(*names):
        return AlignmentArguments(transfer=0.5, transfer_kinds=[*names])

    unpadded = tiny.bert(seed=2, pad_token_id=None)
    for options, message in (
        (
            {"alignment": kinds("crop", "splice")},
            "BertFor.* reads texts, and crop of transfer_kinds .* Choose from splice",
        ),
        ({"student": tiny.vit(), "alignment": kinds("splice")}, "ViTFor.* reads images, and splice of .* from mixup"),
        ({"student": Siglip2ForImageClassification(patches)}, "Siglip2ForImageClassification reads .*: patches or ids"),
        ({"student": ImageGPTForImageClassification(pixels_as_ids)}, "ImageGPTForImageClassification reads input_ids"),
        ({"alignment": kinds("mask")}, "'mask' needs a mask token, and neither .* mask_token_id. Set it, or choose"),
        (
            {"student": unpadded, "alignment": kinds("splice")},
            "'splice' needs padding at its end, .* no pad_token_id|has a pad_token_id",
        ),
    ):
        student = options.pop("student", tiny.bert(seed=2))
        teacher = copy.deepcopy(student)
        rows = tiny.texts() if student.main_input_name == "input_ids" else tiny.images()
        with pytest.raises(ValueError, match=message):
            build(tmp_path, student=student, teacher=teacher, dataset=rows, **options)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"pixel_values": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)},
            r"as floats \[B, C, H, W\]. Got torch.uint8 \[2, 3",
        ),
        ({"pixel_values": torch.zeros(2, 4, 48)}, r"Got torch.float32 \[2, 4, 48\]"),
        ({"pixel_values": [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)]}, "Got list. Let the image processor"),
        (
            {"inputs_embeds": torch.zeros(2, 3, 4)},
            r"'input_ids' \[B, L\]. Got none in a batch of inputs_embeds. Give tokens",
        ),
        ({"input_ids": torch.zeros(2, 3, 4)}, r"Got \[2, 3, 4\] in a batch"),
        (
            padded([CLS, 5, SEP], bbox=torch.zeros(1, 3, 4)),
            "moves tokens, and bbox of the batch would not follow .*input_ids, attention_mask, token_type_ids do",
        ),
    ],
)
def test_batches_that_nothing_can_be_made_of_are_refused(batch, message):
    inputs = None if "pixel_values" in batch else Texts(TOKENS, frozenset(batch))
    with pytest.raises(ValueError, match=message):
        transferred(batch, "mixup" if inputs is None else "splice", inputs=inputs)


def test_images_of_several_shapes_on_the_processes_are_refused():
    with pytest.raises(
        ValueError, match=r"mixes images of one shape. Got \[2, 2, 8, 8\], \[2, 2, 6, 6\] on the processes"
    ):
        on_processes([{"pixel_values": pictures(2, size=size)} for size in (8, 6)], "mixup")


def test_a_tokenizer_that_is_not_known_is_said(tmp_path, caplog):
    build(tmp_path)
    assert "No tokenizer is known, so transfer keeps only the special tokens that the config names" in caplog.text
