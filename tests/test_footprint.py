"""The footprint: counts and bytes by hand, and what timing leaves as it was."""

import json

import pytest
import torch
from torch import nn

from hf_compalign.measure import footprint as module
from hf_compalign.measure.footprint import footprint, interleaved_latency_ms


class Tied(nn.Module):
    """10 x 4 weights used twice, 4 x 4 + 4 more, a buffer of 3 that is saved and one of 100 that is not."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.middle = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("saved", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("unsaved", torch.zeros(100), persistent=False)
        self.calls = []

    def forward(self, ids, scale=1.0):
        self.calls.append((self.training, self.drop.training, torch.is_inference_mode_enabled()))
        return self.out(self.drop(self.middle(self.embed(ids)))) * scale


IDS = torch.zeros(6, 2, dtype=torch.long)


def test_tied_weights_count_once():
    found = footprint(Tied())
    assert found.parameters == 40 + 20
    assert found.size_bytes == 4 * 60 + 8 * 3


def test_pruned_weights_are_zero_but_not_smaller():
    model = Tied()
    before = footprint(model)
    nn.init.ones_(model.embed.weight)
    nn.init.ones_(model.middle.bias)
    with torch.no_grad():
        model.middle.weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]).repeat(2, 2))
    found = footprint(model)
    assert (found.parameters, found.nonzero_parameters) == (60, 60 - 8)
    assert found.size_bytes == before.size_bytes


def test_half_precision_takes_half_the_bytes():
    assert footprint(nn.Linear(8, 8, bias=False).half()).size_bytes == 2 * 64


def test_nothing_is_timed_without_inputs():
    model = Tied()
    found = footprint(model)
    assert (found.latency_ms, found.latency_ms_low, found.latency_ms_high) == (None, None, None)
    assert found.batch_size is None
    assert model.calls == []


def test_the_conditions_of_the_timing_are_stated():
    model = Tied()
    found = footprint(model, inputs={"scale": 2.0, "ids": IDS}, n_warmup=2, n_runs=5)
    assert found.batch_size == 6
    assert (found.threads, found.device) == (torch.get_num_threads(), "cpu")
    assert 0 < found.latency_ms_low <= found.latency_ms <= found.latency_ms_high
    assert model.calls == [(False, False, True)] * 7  # evaluation and inference mode, warm-up included


def test_every_submodule_gets_its_own_training_mode_back():
    model = Tied().train()
    model.drop.eval()
    footprint(model, inputs={"ids": IDS}, n_runs=1)
    assert model.training
    assert not model.drop.training
    with pytest.raises(IndexError):
        footprint(model, inputs={"ids": IDS + 99}, n_runs=1)
    assert model.training


def test_the_median_and_the_quartiles_leave_out_the_warm_up(monkeypatch):
    times = iter([1e6, 1e6, 5.0, 1.0, 3.0, 4.0, 2.0])
    monkeypatch.setattr(module, "_time_ms", lambda model, inputs: next(times))
    found = footprint(Tied(), inputs={"ids": IDS}, n_warmup=2, n_runs=5)
    assert (found.latency_ms_low, found.latency_ms, found.latency_ms_high) == (2, 3, 4)


def test_models_take_turns():
    order = []
    models = {name: nn.Identity() for name in "ab"}
    for name, model in models.items():
        model.register_forward_hook(lambda *_, name=name: order.append(name))
    candidates = {name: (model, {"input": torch.zeros(1)}) for name, model in models.items()}
    found = interleaved_latency_ms(candidates, n_warmup=1, n_runs=2)
    assert "".join(order) == "ababab"
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_weight_file_is_weighed_and_nothing_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 100)
    for other in ("optimizer.bin", "training_args.bin", "config.json", "model-00001-of-00002.safetensors"):
        (tmp_path / other).write_bytes(b"x" * 999)
    assert footprint(Tied(), folder=tmp_path).size_bytes == 100


def test_all_shards_are_weighed(tmp_path):
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"weight_map": {**shards, "c": shards["b"]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for size, shard in zip((100, 30), shards.values(), strict=True):
        (tmp_path / shard).write_bytes(b"x" * size)
    assert footprint(Tied(), folder=tmp_path).size_bytes == 130


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no weight files. Looked for model.safetensors, pytorch_"):
        footprint(Tied(), folder=tmp_path)


def test_inputs_without_a_tensor_are_refused():
    with pytest.raises(ValueError, match=r"at least one tensor with a batch axis. Got scale"):
        footprint(Tied(), inputs={"scale": 1.0})


def test_timing_nothing_is_refused():
    with pytest.raises(ValueError, match="Got n_runs = 0 and n_warmup = 3"):
        footprint(Tied(), inputs={"ids": IDS}, n_runs=0)
    with pytest.raises(ValueError, match="Got n_runs = 20 and n_warmup = -1"):
        interleaved_latency_ms({}, n_warmup=-1)


def test_a_saved_transformer_weighs_what_its_file_does(tmp_path):
    import transformers

    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    found = footprint(model, folder=tmp_path)
    assert found.size_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert found.parameters == model.num_parameters()
    assert footprint(model).size_bytes == 4 * found.parameters
