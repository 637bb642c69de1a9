"""The footprint: counts, bytes and FLOPs by hand and against real files, and what measuring leaves as it was."""

import dataclasses
import gzip
import json
import types

import huggingface_hub.constants
import pytest
import tiny
import torch
import traced
import transformers
from quantized import by_scheme
from torch import nn

from hf_compalign.compress.quantize import quantize_
from hf_compalign.measure.footprint import Footprint, Latency, footprint, footprint_table, interleaved_latency_ms
from hf_compalign.measure.footprint import latency as latency_module
from hf_compalign.models import OnnxModel


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


def test_tied_weights_count_once_and_half_precision_half():
    found = footprint(Tied())
    assert (found.parameters, found.size_bytes) == (40 + 20, 4 * 60 + 8 * 3)
    assert footprint(nn.Linear(8, 8, bias=False).half()).size_bytes == 2 * 64


def test_pruned_weights_are_zero_but_not_smaller():
    model = Tied()
    before = footprint(model, inputs={"ids": IDS}, n_runs=1)
    nn.init.ones_(model.embed.weight)
    nn.init.ones_(model.middle.bias)
    with torch.no_grad():
        model.middle.weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]).repeat(2, 2))
    found = footprint(model, inputs={"ids": IDS}, n_runs=1)
    assert (found.parameters, found.nonzero_parameters, found.size_bytes) == (60, 60 - 8, before.size_bytes)
    assert found.flops_per_item == before.flops_per_item


def test_only_layers_that_keep_to_2_4_throughout_count_for_it():
    kept, broken, odd, bias = nn.Linear(8, 2), nn.Linear(8, 2), nn.Linear(6, 2), nn.Linear(4, 1)
    pattern = torch.tensor([[1.0, 0, 2, 0, 0, 3, 4, 0], [0, 0, 5, 6, 0, 0, 0, 0]])
    with torch.no_grad():
        kept.weight.copy_(pattern)
        # Three in the middle four columns, yet no more than two in each aligned four; then three in one of these.
        kept.weight[0] = torch.tensor([0.0, 0, 1, 1, 1, 0, 0, 1])
        broken.weight.copy_(pattern)
        broken.weight[1, 0] = 1
        odd.weight.zero_()
    assert footprint(nn.ModuleList([kept, broken, odd, bias, nn.Embedding(4, 4)])).semi_structured_parameters == 16
    assert footprint(nn.ModuleList([kept, nn.ModuleList([kept])])).semi_structured_parameters == 16


def test_the_weight_file_is_weighed_and_nothing_else(tmp_path):
    model, name = tiny.bert(), "model.safetensors"
    model.save_pretrained(tmp_path)
    for other in ("optimizer.bin", "training_args.bin", "model-00001-of-00002.safetensors"):
        (tmp_path / other).write_bytes(b"x" * 999)
    found = footprint(tmp_path, compressed=True)
    assert found.size_bytes == (tmp_path / name).stat().st_size
    assert found.parameters == model.num_parameters()
    # zlib's header and checksum take 6 bytes, gzip's 18.
    assert found.compressed_size_bytes == len(gzip.compress((tmp_path / name).read_bytes(), 6)) - 12


def test_all_shards_are_weighed(tmp_path):
    tiny.bert().save_pretrained(tmp_path, max_shard_size="4KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    found = footprint(str(tmp_path), compressed=True)
    assert found.size_bytes == sum(shard.stat().st_size for shard in shards)
    whole = b"".join(shard.read_bytes() for shard in shards)
    assert found.compressed_size_bytes == len(gzip.compress(whole, 6)) - 12


def tied_bert():
    """The decoder is the embedding, and its bias has two names."""
    return transformers.BertForMaskedLM(tiny.bert().config)


@pytest.mark.parametrize("made", [tiny.bert, tied_bert, tiny.vit])
def test_a_module_weighs_what_save_pretrained_writes_without_the_header(tmp_path, made):
    model = made()
    model.save_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert footprint(model).size_bytes == len(data) - header


def test_a_hub_id_is_weighed_by_the_files_in_the_cache(tmp_path, monkeypatch):
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    tiny.bert().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = footprint("someone/tiny")
    assert found == footprint(snapshot)
    assert found.size_bytes == (snapshot / "model.safetensors").stat().st_size


def test_zeros_save_bytes_under_zlib_only():
    model = tiny.bert(hidden_size=64, intermediate_size=128)
    before = footprint(model, compressed=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.rand_like(weight) > 0.9)
    after = footprint(model, compressed=True)
    assert after.size_bytes == before.size_bytes
    assert after.compressed_size_bytes < 0.3 * before.compressed_size_bytes
    assert footprint(model).compressed_size_bytes is None


def test_a_path_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No model could be loaded from .*nowhere"):
        footprint(tmp_path / "nowhere")
    tiny.bert().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match="could not be read .* A pytorch_model.bin is a pickle: if you trust it, make safe"
    ):
        footprint(tmp_path)


def test_an_onnx_file_is_weighed_and_timed_like_a_model(tmp_path):
    model = tiny.without_equal_tensors(tiny.vit())
    model.config.architectures = ["ViTForImageClassification"]
    model.config.save_pretrained(tmp_path)
    path = tmp_path / "model.onnx"
    traced.export_graph(model, path)
    inputs = {"pixel_values": torch.zeros(2, 1, 8, 8)}
    found = footprint(path, inputs=inputs, compressed=True, n_runs=2)
    assert (found.parameters, found.size_bytes) == (model.num_parameters(), path.stat().st_size)
    assert found.nonzero_parameters == footprint(model).nonzero_parameters
    assert found.compressed_size_bytes == len(gzip.compress(path.read_bytes(), 6)) - 12
    assert (found.flops_per_item, found.semi_structured_parameters, found.batch_size) == (None, 0, 2)
    assert 0 < found.latency.low_ms <= found.latency.high_ms
    file = OnnxModel(path)
    assert footprint(file, compressed=True) == footprint(path, compressed=True)
    of_both, of_model = footprint(nn.ModuleList([file, model]), compressed=True), footprint(model)
    assert of_both.parameters == 2 * found.parameters
    assert of_both.nonzero_parameters == found.nonzero_parameters + of_model.nonzero_parameters
    assert of_both.size_bytes == found.size_bytes + of_model.size_bytes
    assert of_both.compressed_size_bytes > found.compressed_size_bytes
    both = interleaved_latency_ms({"torch": (model, inputs), "onnx": (file, inputs)}, n_warmup=0, n_runs=1)
    assert list(both) == ["torch", "onnx"]


@pytest.mark.parametrize("scheme", by_scheme(["torchao-w8", "quanto-w8", "quanto-w4"]))
def test_weights_that_a_library_quantized_are_weighed_as_they_are(tmp_path, scheme):
    model = tiny.bert(hidden_size=64, intermediate_size=64)
    dense = footprint(model)
    summary = quantize_(model, scheme)
    scales = sum(buffer.nbytes for name, buffer in model.named_buffers() if name.endswith("_scale"))  # of activations
    saved = dense.size_bytes - (summary.sizes_bytes[0] - summary.sizes_bytes[1]) + scales
    found = footprint(model, inputs={"input_ids": torch.ones(2, 5, dtype=torch.long)}, compressed=True, n_runs=1)
    assert (found.parameters, found.flops_per_item, found.size_bytes) == (dense.parameters, None, saved)
    assert 0.8 * dense.nonzero_parameters < found.nonzero_parameters <= dense.nonzero_parameters
    assert found.compressed_size_bytes < saved
    model.save_pretrained(tmp_path)
    of_folder = footprint(tmp_path)
    [weights] = tmp_path.glob("*.safetensors")
    assert of_folder.size_bytes == weights.stat().st_size
    assert of_folder.nonzero_parameters == found.nonzero_parameters


def _encoder_flops(length, *, layers=2, hidden=16, ffn=32, n_labels=3):
    """2 x m x n x k for each product of an m x k with a k x n matrix, all heads together."""
    projections = 4 * 2 * length * hidden * hidden
    attention = 2 * (2 * length * length * hidden)
    feed_forward = 2 * (2 * length * hidden * ffn)
    return layers * (projections + attention + feed_forward) + 2 * hidden * n_labels


# What runs here of itself is sdpa, whose kernel torch 2.13 does not count on a CPU.
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_flops_of_bert_are_those_of_its_matrix_products(attention, batch_size):
    model = tiny.bert()
    model.set_attn_implementation(attention)
    ids = torch.ones(batch_size, 5, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0  # padding is computed like the rest
    pooler = 2 * 16 * 16
    found = footprint(model, inputs={"input_ids": ids, "attention_mask": mask}, n_runs=1)
    assert found.flops_per_item == _encoder_flops(5) + pooler


def test_the_flops_of_vit_hold_its_convolution_and_those_of_a_fused_layer_its_products():
    # 4 patches of 4 x 4 pixels and the class token.
    found = footprint(tiny.vit(), inputs={"pixel_values": torch.zeros(2, 1, 8, 8)}, n_runs=1)
    assert found.flops_per_item == _encoder_flops(5) + 4 * 2 * 16 * 16
    # A fused encoder layer is counted and stays fused.
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    found = footprint(layer, inputs={"src": torch.zeros(2, 5, 16)}, n_runs=1)
    assert found.flops_per_item == _encoder_flops(5, layers=1, n_labels=0)
    assert torch.backends.mha.get_fastpath_enabled()


def test_flops_that_torch_cannot_count_are_left_out():
    model = Tied()
    model.config = types.SimpleNamespace(_attn_implementation="flash_attention_2")
    assert footprint(model, inputs={"ids": IDS}, n_runs=1).flops_per_item is None


def test_nothing_is_run_without_inputs():
    model = Tied()
    found = footprint(model)
    assert (found.latency, found.flops_per_item, found.batch_size) == (None, None, None)
    assert model.calls == []


def test_the_conditions_of_the_timing_are_stated():
    model = Tied()
    found = footprint(model, inputs={"scale": 2.0, "ids": IDS}, n_warmup=2, n_runs=5)
    assert found.batch_size == 6
    assert (found.threads, found.device) == (torch.get_num_threads(), "cpu")
    assert 0 < found.latency.low_ms <= found.latency.median_ms <= found.latency.high_ms
    # Evaluation and inference mode: the warm-up, the timed passes, and one to count FLOPs.
    assert model.calls == [(False, False, True)] * (2 + 5 + 1)


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
    monkeypatch.setattr(latency_module, "_time_ms", lambda model, inputs: next(times))
    found = footprint(Tied(), inputs={"ids": IDS}, n_warmup=2, n_runs=5)
    assert found.latency == Latency(median_ms=3, low_ms=2, high_ms=4)


def test_models_take_turns():
    order = []
    models = {name: nn.Identity() for name in "abc"}
    for name, model in models.items():
        model.register_forward_hook(lambda *_, name=name: order.append(name))
    candidates = {name: (model, {"input": torch.zeros(1)}) for name, model in models.items()}
    found = interleaved_latency_ms(candidates, n_warmup=1, n_runs=2)
    assert "".join(order) == "abcbcacab"  # another one first in each round
    assert list(found) == ["a", "b", "c"]


def test_timing_nothing_is_refused():
    with pytest.raises(ValueError, match=r"at least one tensor with a batch axis. Got scale"):
        footprint(Tied(), inputs={"scale": 1.0})
    with pytest.raises(ValueError, match="Got n_runs = 0, n_warmup = 3"):
        footprint(Tied(), inputs={"ids": IDS}, n_runs=0)
    with pytest.raises(ValueError, match="Got n_runs = 20, n_warmup = -1"):
        interleaved_latency_ms({}, n_warmup=-1)


DENSE = Footprint(2000, 2000, 0, 8000, None, None, latency=None, batch_size=None, threads=2, device="cpu")
MASKED = dataclasses.replace(DENSE, nonzero_parameters=800)
TIMES = (Latency(10.0, 9.0, 12.0), Latency(9.0, 8.5, 9.5))


def test_a_masked_model_is_never_called_smaller_or_faster():
    table, _, notes = footprint_table(DENSE, MASKED).partition("\n\n")
    assert [line.split() for line in table.splitlines()] == [
        ["costs", "reference", "candidate", "ratio"],
        ["parameters", "2,000", "2,000", "1.00"],
        ["parameters", "that", "are", "not", "0", "2,000", "800", "0.40"],
        ["bytes", "8,000", "8,000", "1.00"],
    ]
    assert notes == (
        "60 % of the compressed model's parameters are 0. They are stored and multiplied like the others: zeros make "
        "the model neither smaller nor faster."
    )


def test_what_was_measured_of_both_is_shown():
    smaller = dataclasses.replace(
        DENSE, size_bytes=2000, compressed_size_bytes=1850, flops_per_item=500.5, parameters=500, nonzero_parameters=499
    )
    table = footprint_table(dataclasses.replace(DENSE, compressed_size_bytes=7400), smaller)
    assert "after zlib" in table
    assert "FLOPs" not in table  # of one alone there is nothing to compare
    assert "latency" not in table.lower()
    assert "neither" not in table  # a few zeros are in every model
    table = footprint_table(dataclasses.replace(DENSE, flops_per_item=2002.0), smaller)
    assert ["FLOPs", "per", "item", "2,002", "500", "0.25"] in [line.split() for line in table.splitlines()]


def test_only_times_taken_side_by_side_have_a_ratio():
    timed = [dataclasses.replace(DENSE, latency=latency, batch_size=8) for latency in TIMES]
    words = ["latency", "(ms)", "10.00", "(9.00", "to", "12.00)", "9.00", "(8.50", "to", "9.50)"]
    alone = footprint_table(*timed)
    assert words in [line.split() for line in alone.splitlines()]
    assert "(8 items, cpu, CPU threads: 2; 8 items, cpu, CPU threads: 2). The models were not timed side by" in alone
    together = footprint_table(DENSE, DENSE, latencies=TIMES)
    assert [*words, "0.90"] in [line.split() for line in together.splitlines()]
    assert "both models in turn" in together


def test_2_4_and_compression_are_said_to_pay_where_they_do():
    found = footprint_table(DENSE, dataclasses.replace(MASKED, semi_structured_parameters=1500))
    assert "75 % of the parameters are in linear layers that keep to the 2:4 pattern. NVIDIA GPUs from Ampere" in found
    assert "archive" not in found
    assert "archive" in footprint_table(DENSE, dataclasses.replace(MASKED, compressed_size_bytes=5000))


def test_a_footprint_is_plain_data():
    found = footprint(Tied(), inputs={"ids": IDS}, n_runs=1)
    written = json.loads(json.dumps(dataclasses.asdict(found)))
    assert Footprint(**written | {"latency": Latency(**written["latency"])}) == found
    # So is that of a model without weights, which has a table.
    nothing = footprint(nn.Identity())
    assert nothing.parameters == nothing.size_bytes == 0
    assert footprint_table(nothing, nothing).split("\n")[1].split() == ["parameters", "0", "0"]
