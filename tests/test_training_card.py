"""The model card that a Trainer drafts and pushes: the teacher, the alignment, the compression and the last audit."""

from pathlib import Path

import shipping
import tiny
import transformers.trainer
from transformers import TrainerCallback

from hf_compalign import PruningCallback
from hf_compalign.align import AlignedDistillationTrainer, AlignmentArguments
from hf_compalign.measure.audit import AuditCallback

ROWS = tiny.texts(40, seed=5)


def trainer(folder, *callbacks, teacher, **settings):
    args = tiny.arguments(folder / "small", eval_strategy="epoch", num_train_epochs=1, **settings)
    datasets = {"train_dataset": tiny.texts(8), "eval_dataset": tiny.texts(8, seed=9)}
    alignment = AlignmentArguments(preset="kd", kl_weight=0.5)
    return AlignedDistillationTrainer(
        tiny.bert(seed=1), args, teacher=teacher, alignment=alignment, callbacks=[*callbacks], **datasets
    )


def test_what_is_pushed_has_a_card_with_all_of_it(tmp_path, monkeypatch):
    tiny.bert(seed=2).save_pretrained(tmp_path / "original")
    pushed = []

    class Hub:
        def create_repo(self, name, **kwargs):
            return type("Url", (), {"repo_id": f"tester/{name}"})

        def upload_folder(self, folder_path, **kwargs):
            pushed.append(shipping.front_matter(Path(folder_path)))

    monkeypatch.setattr(transformers.trainer, "hf_api", Hub)
    audited = AuditCallback(tiny.bert(seed=2), ROWS, limits={"mismatch_rate": 0.9})
    run = trainer(tmp_path, PruningCallback(0.5), audited, TrainerCallback(), teacher=tmp_path / "original")
    run.train()
    run.push_to_hub(tags=["mine"])
    ((header, body),) = pushed
    assert {"mine", "hf_compalign", "knowledge-distillation", "generated_from_trainer"} == {*header["tags"]}
    assert "its teacher, `original`. The terms" in body
    assert "their weights: preset kd with other weights: task 1, kl 0.5." in body
    assert str(tmp_path) not in body
    assert "## PruningCallback\n\n`sparsity` 0.5, `pattern` global, `score` magnitude, " in body
    changed = audited.latest.metrics["cie"]
    assert (
        f"after 2 steps, it answered {40 - changed} of 40 items like the reference and {changed} differently." in body
    )
    assert "| other answer (mismatch rate) |" in body
    # The Trainer's own part is all there, and comes last.
    assert body.index("## Alignment") < body.index("## Training procedure") < body.index("### Framework versions")


def test_a_card_needs_neither_an_audit_nor_a_known_teacher(tmp_path):
    audited = AuditCallback(tiny.bert(seed=2), ROWS)
    trainer(tmp_path, audited, teacher=tiny.bert(seed=2)).create_model_card(model_name="small")
    header, body = shipping.front_matter(tmp_path / "small")
    assert header["tags"] == ["generated_from_trainer", "hf_compalign", "knowledge-distillation"]
    assert "its teacher, the model that it was made from." in body
    assert "still the same model" not in body
