"""A resumed run ends like an uninterrupted one, and refuses to go on with another recipe."""

import json
import shutil
import signal
import subprocess
import sys
import time

import every_task
import killed_run
import pytest
import tiny
import torch
from transformers import Trainer

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, PruningCallback

WEIGHTINGS = ["fixed", "random", "round_robin", "softadapt", "uncertainty"]


def build(folder, *, weighting="fixed", callback=None, teacher=None, **settings):
    saving = {"save_steps": 1, "gradient_accumulation_steps": 2}
    return AlignedDistillationTrainer(
        tiny.bert(seed=2, dropout=0.1),
        tiny.arguments(folder, **(saving | settings)),
        teacher=teacher or tiny.bert(seed=1),
        alignment=AlignmentArguments(preset="paper", weighting=weighting, student_dropout=True),
        train_dataset=tiny.texts(32),
        callbacks=[PruningCallback(0.6, every=1) if callback is None else callback],
    )


def trained(folder, *, resume=None, **settings):
    trainer = build(folder, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_resume_equals_uninterrupted(tmp_path, weighting):
    whole = trained(tmp_path / "whole", weighting=weighting)
    for step in (1, 3, 6, 8):
        # Another process, another output folder: only the checkpoint is left of the first run.
        copy = tmp_path / f"moved-{step}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", copy)
        resumed = trained(tmp_path / f"resumed-{step}", weighting=weighting, resume=str(copy))
        assert torch.equal(tiny.flat(whole.model), tiny.flat(resumed.model))
        assert torch.equal(whole.weighting.weights(), resumed.weighting.weights())


def test_weights_under_other_names_are_not_passed_over(tmp_path):
    """transformers saves Segformer under other names than its modules have, and would train on without them."""

    def segformer(**settings):
        return AlignedDistillationTrainer(
            every_task.CASES["image-segmentation"].model(1),
            tiny.arguments(tmp_path, save_steps=1, max_steps=2, remove_unused_columns=False, **settings),
            teacher=every_task.CASES["image-segmentation"].model(0),
            train_dataset=every_task.rows("image-segmentation", 8),
            eval_dataset=every_task.rows("image-segmentation", 8, seed=1),
            data_collator=every_task.padded,
        )

    segformer().train()
    words = r"looks for segformer.stages.* and the file holds segformer.encoder.* from_pretrained does: open the"
    with pytest.raises(ValueError, match=words):
        segformer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
    with pytest.raises(ValueError, match=words):
        segformer(**best).train()


def test_callback_states_restored_by_the_trainer_do_no_harm(tmp_path):
    whole = trained(tmp_path / "whole")
    settings = {"restore_callback_states_from_checkpoint": True}
    resumed = trained(tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-3"), **settings)
    assert torch.equal(tiny.flat(whole.model), tiny.flat(resumed.model))


def test_two_callbacks_each_find_their_own_masks(tmp_path):
    def trainer(folder):
        built = build(folder, callback=PruningCallback(0.5, include=["*attention*"]))
        built.add_callback(PruningCallback(0.8, include=["*intermediate*"]))
        return built

    whole, resumed = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert torch.equal(tiny.flat(whole.model), tiny.flat(resumed.model))


def test_a_plain_trainer_resumes_with_its_masks(tmp_path):
    models = []
    for resume in (None, str(tmp_path / "0" / "checkpoint-4")):
        trainer = Trainer(
            tiny.bert(seed=2),
            tiny.arguments(tmp_path / str(len(models)), save_steps=2),
            train_dataset=tiny.texts(),
            callbacks=[PruningCallback(0.6)],
        )
        trainer.train(resume_from_checkpoint=resume)
        models.append(tiny.flat(trainer.model))
    assert torch.equal(*models)


def test_a_checkpoint_cut_off_by_a_kill_is_passed_over(tmp_path, caplog):
    whole = trained(tmp_path)
    expected = tiny.flat(whole.model).clone()
    shutil.rmtree(tmp_path / "checkpoint-8")
    state = tmp_path / "checkpoint-7" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    (tmp_path / "checkpoint-6" / "trainer_state.json").unlink()
    resumed = trained(tmp_path, resume=True)
    assert torch.equal(expected, tiny.flat(resumed.model))
    assert "Passing over" in caplog.text


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(ValueError, match="No complete checkpoint found in"):
        trained(tmp_path, resume=True)


def test_what_cannot_be_resumed_is_called_by_its_name(tmp_path):
    build(tmp_path, save_steps=4, save_only_model=True).train()
    (tmp_path / "saved").mkdir()
    tiny.bert().save_pretrained(tmp_path / "saved")
    checkpoint = tmp_path / "checkpoint-4"
    for where, message in (
        (checkpoint, "checkpoint-4 has no optimizer.pt: it was saved with save_only_model=True, or .* load the model"),
        (tmp_path / "nowhere", "There is no checkpoint .*nowhere"),
        (checkpoint / "config.json", "There is no checkpoint .*config.json"),
        (tmp_path, "is not a checkpoint: it has no trainer_state.json. It holds checkpoint-4, checkpoint-8"),
        (tmp_path / "saved", "is not a checkpoint: it has no trainer_state.json. To start from its weights"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(tmp_path / "other", resume=str(where))


def test_movement_is_not_resumed_without_what_it_has_learned(tmp_path):
    def run(folder):
        callback = PruningCallback(0.6, score="movement", every=1)
        return tiny.trainer(folder, tiny.bert(seed=2), callback, save_steps=4, save_only_model=True)

    run(tmp_path).train()
    with pytest.raises(ValueError, match="The checkpoint does not hold what score='movement' has learned"):
        run(tmp_path / "other").train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_another_recipe_is_refused(tmp_path):
    build(tmp_path).train()
    checkpoint = str(tmp_path / "checkpoint-3")
    cases = [
        ("another alignment: weighting: 'fixed' -> 'random'", {"weighting": "random"}),
        ("another alignment: teacher: '.*' -> '.*'", {"teacher": tiny.bert(seed=7)}),
        ("another PruningCallback: sparsity: 0.6 -> 0.7", {"callback": PruningCallback(0.7, every=1)}),
        (r"optimizer steps \[0, 4\], and this run's is \[0, 6\]", {"num_train_epochs": 3}),
    ]
    for message, settings in cases:
        with pytest.raises(ValueError, match=message):
            trained(tmp_path / "other", resume=checkpoint, **settings)


def test_checkpoints_of_other_makers_are_refused(tmp_path):
    arguments = tiny.arguments(tmp_path, save_strategy="epoch", max_steps=6)
    Trainer(tiny.bert(), arguments, train_dataset=tiny.texts()).train()
    checkpoint = str(tmp_path / "checkpoint-6")
    with pytest.raises(ValueError, match=r"not made by an AlignedDistillationTrainer: it has no alignment.json"):
        trained(tmp_path / "other", resume=checkpoint)
    pruned = Trainer(tiny.bert(), arguments, train_dataset=tiny.texts(), callbacks=[PruningCallback(0.5)])
    with pytest.raises(ValueError, match="made without a PruningCallback"):
        pruned.train(resume_from_checkpoint=checkpoint)


def test_the_state_of_the_alignment_is_readable(tmp_path):
    build(tmp_path, weighting="uncertainty").train()
    state = json.loads((tmp_path / "checkpoint-3" / "alignment.json").read_text())
    assert state["alignment"]["weighting"] == "uncertainty"
    assert len(state["weighting"]["log_variance"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shrinking-and-pruning", "quantizing"])
def test_a_killed_process_resumes_to_the_same_result(tmp_path, kind):
    whole = killed_run.build(str(tmp_path / "whole"), kind)
    whole.train()
    folder = tmp_path / "killed"
    command = [sys.executable, killed_run.__file__, str(folder), kind]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint-4").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "checkpoint-24").exists()
    resumed = killed_run.build(str(folder), kind)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(tiny.flat(whole.model), tiny.flat(resumed.model))
