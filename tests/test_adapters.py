"""Adapters of PEFT: what trains with them, and what refuses them until they are merged."""

import json

import pytest
import tiny
import torch
from torch import nn

from hf_compalign import AlignedDistillationTrainer, predict
from hf_compalign.compress import load_compressed
from hf_compalign.compress.callbacks import PruningCallback, QuantizationCallback, ShrinkCallback
from hf_compalign.compress.prune import prune_
from hf_compalign.compress.quantize import quantize_
from hf_compalign.compress.shrink import shrink_

ONNX = "onnxruntime-w8a8"


class Adapted(nn.Module):
    """A layer as PEFT wraps it, for where it is not installed."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer


def lora(*, seed=2):
    peft = pytest.importorskip("peft")
    # Adapters that begin at 0 would change no answer.
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
    return peft.get_peft_model(tiny.bert(seed=seed), config)


def injected():
    model = tiny.bert()
    model.add_adapter(pytest.importorskip("peft").LoraConfig(target_modules=["pooler.dense"]))
    return model


def prompted():
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(tiny.bert(), peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))


def stand_in():
    model = tiny.bert()
    model.bert.pooler.dense = Adapted(model.bert.pooler.dense)
    return model


@pytest.mark.parametrize("adapted", [stand_in, lora, injected, prompted])
def test_no_model_with_adapters_is_compressed(tmp_path, adapted):
    model = adapted()

    def trained_with(callback):
        return lambda: tiny.trainer(tmp_path, model, callback).train()

    with tiny.unchanged(model, config=False):
        for compress in (
            lambda: prune_(model, 0.5),
            lambda: shrink_(model, ffn=0.5, score="magnitude"),
            lambda: quantize_(model, ONNX),
            trained_with(PruningCallback(0.5)),
            trained_with(ShrinkCallback(ffn=0.5)),
            trained_with(QuantizationCallback(ONNX, begin=0.5)),
        ):
            with pytest.raises(ValueError, match=r"has adapters of PEFT.* Merge them first: .*merge_and_unload\(\)"):
                compress()


def test_merged_adapters_are_in_the_way_of_nothing():
    assert prune_(lora().merge_and_unload(), 0.5)


def test_student_and_teacher_can_have_adapters(tmp_path):
    rows = tiny.texts(8, seed=4)

    def trained(student, teacher, resume=None):
        data = {"train_dataset": tiny.texts(), "eval_dataset": rows}
        arguments = tiny.arguments(tmp_path, max_steps=4, save_steps=2, learning_rate=0.05)
        run = AlignedDistillationTrainer(student, arguments, teacher=teacher, **data)
        run.train(resume_from_checkpoint=resume)
        return run

    whole = trained(lora(seed=2), lora(seed=1))
    resumed = trained(lora(seed=2), lora(seed=1), resume=str(tmp_path / "checkpoint-2"))
    assert torch.equal(tiny.flat(whole.model), tiny.flat(resumed.model))
    whole.save_model(str(tmp_path / "adapters"))
    assert not (tmp_path / "adapters" / "config.json").exists()
    with pytest.raises(ValueError, match="holds adapters of PEFT"):
        predict(tmp_path / "adapters", rows)
    whole.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged, reference = (predict(model, rows).predicted for model in (tmp_path / "merged", lora(seed=1)))
    assert whole.evaluate()["eval_cie"] == (merged != reference).sum()


@pytest.mark.parametrize("base", [None, "my-org/my-model"])
def test_a_folder_of_adapters_is_called_so(tmp_path, base):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    of = f" for {base!r}" if base else ""
    with pytest.raises(ValueError, match=f"holds adapters of PEFT{of}, and models are opened without. Merge them"):
        load_compressed(tmp_path)
    # transformers loads them with the model beside them, but only where PEFT is installed.
    tiny.bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Merge them first"):
        load_compressed(tmp_path)
