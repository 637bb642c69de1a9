"""How large and how fast a model is, measured rather than derived from how it was compressed."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from transformers import CONFIG_NAME

from hf_compalign._compat import attention_of
from hf_compalign.measure.footprint.latency import interleaved_latency_ms
from hf_compalign.measure.footprint.record import Latency
from hf_compalign.models import count_flops, device_of, file_models, is_quantized, on_device, plain_tensors, shards_of
from hf_compalign.opening import load_model

_WEIGHTS = "model.safetensors"
_QUANTIZED_WEIGHTS = "model.quanto.safetensors"
# Other attention runs in kernels that torch's counter does not see.
_COUNTED_ATTENTION = (None, "eager", "sdpa")


@dataclass(frozen=True)
class Footprint:
    """What a model costs to keep and to run.

    Weights pruned to 0 but stored dense take the same bytes, FLOPs and time as before: a sparse model is neither
    smaller nor faster. `hf_compalign.measure.footprint.footprint_table` compares two models.

    Attributes:
        parameters: how many numbers it holds, tied ones once; of an ONNX or OpenVINO file, its weights without scales
            and zero points. ``nonzero_parameters`` of them are not 0.
        semi_structured_parameters: how many are in linear layers with the 2:4 pattern: of each four weights in a row,
            at most two are not 0. On NVIDIA GPUs from Ampere on, torch has kernels for it, after
            `torch.sparse.to_sparse_semi_structured`. Elsewhere these zeros save nothing. 0 for a file.
        size_bytes: bytes of the weight files, or of the tensors that `save_pretrained` would write for a module.
        compressed_size_bytes: the same bytes after zlib (level 6, as in gzip), as in a compressed archive or download.
            Only here do zeros save anything by themselves. None unless asked for.
        flops_per_item: floating-point operations (a multiplication and an addition are two) of the matrix products
            and convolutions in one forward pass, with padding and products by 0, divided by the batch size. None
            without inputs, and where torch cannot count them: for a file, for weights quantized by a library, or if
            the attention is neither "eager" nor "sdpa".
        latency: of one forward pass of the whole batch; None without inputs, as ``batch_size``.
        threads: CPU threads that torch used.
    """

    parameters: int
    nonzero_parameters: int
    semi_structured_parameters: int
    size_bytes: int
    compressed_size_bytes: int | None
    flops_per_item: float | None
    latency: Latency | None
    batch_size: int | None
    threads: int
    device: str


def footprint(
    model: nn.Module | str | Path,
    *,
    where: str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    compressed: bool = False,
    n_warmup: int = 3,
    n_runs: int = 20,
) -> Footprint:
    """Count, weigh and time a model where it is.

    >>> found = footprint(nn.Linear(3, 2), inputs={"input": torch.ones(5, 3)}, n_runs=1)
    >>> found.parameters, found.size_bytes, found.flops_per_item
    (8, 32, 12.0)

    Args:
        model: a module, which keeps its device and training mode; a folder or Hub id, whose weight files give the
            bytes; or an .onnx or OpenVINO .xml file.
        where: of a loaded module, the folder or Hub id with the weight files that give the bytes.
        inputs: keyword arguments of one forward pass, on any device. Without them, no FLOPs are counted and nothing is
            timed. To compare the times of two models, use `interleaved_latency_ms`.
        compressed: also run zlib over the weights, which takes about 3 s per 100 MB.
        n_warmup: untimed passes before the ``n_runs`` timed ones.

    Raises:
        ValueError: n_runs < 1 or n_warmup < 0, no input is a tensor, or there is no supported model at the path.
    """
    network: nn.Module = model if isinstance(model, nn.Module) else load_model(model)
    where = where if isinstance(model, nn.Module) else model
    files = [path for one in file_models(network) for path in one.files]
    tensors: list[Tensor] = []
    if files or where is None:
        tensors = list(_saved_tensors(network))
    else:
        files = _weight_files(where)
    batch_size = latency = flops = None
    if inputs is not None:
        batch_size = _batch_size(inputs)
        latency = interleaved_latency_ms({"": (network, inputs)}, n_warmup=n_warmup, n_runs=n_runs)[""]
        flops = _flops(network, inputs)
    n_parameters, n_nonzero = _counted(network)
    return Footprint(
        parameters=n_parameters,
        nonzero_parameters=n_nonzero,
        semi_structured_parameters=_semi_structured(network),
        size_bytes=sum(one.nbytes for one in tensors) + sum(one.stat().st_size for one in files),
        compressed_size_bytes=_after_zlib(_chunks(tensors, files)) if compressed else None,
        flops_per_item=flops / batch_size if flops is not None and batch_size else None,
        latency=latency,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        device=str(device_of(network)),
    )


def _weight_files(where: str | Path) -> list[Path]:
    """The files that load_compressed reads there, without optimizer states and the like."""
    folder = Path(where)
    if not folder.is_dir():
        # Loading has put the files into the cache.
        folder = Path(hf_hub_download(str(where), CONFIG_NAME, local_files_only=True)).parent
    if (folder / _QUANTIZED_WEIGHTS).is_file():
        return [folder / _QUANTIZED_WEIGHTS]
    index = folder / f"{_WEIGHTS}.index.json"
    if (folder / _WEIGHTS).is_file() or not index.is_file():
        return [folder / _WEIGHTS]
    return [folder / shard for shard in shards_of(index)]


def _counted(model: nn.Module) -> tuple[int, int]:
    """All numbers, and those that are not 0."""
    # parameters() yields a tied parameter once, and none of a file.
    counts = [(parameter.numel(), int(_values(parameter).count_nonzero())) for parameter in model.parameters()]
    counts += [one.count_parameters() for one in file_models(model)]
    return sum(n for n, _ in counts), sum(n_nonzero for _, n_nonzero in counts)


def _values(tensor: Tensor) -> Tensor:
    return tensor.dequantize() if is_quantized(tensor) else tensor


def _saved_tensors(model: nn.Module) -> Iterator[Tensor]:
    """What the state dict holds: tied tensors once, quantized ones as integers and scales."""
    saved = model.state_dict().keys()
    for parameter in model.parameters():
        yield from plain_tensors(parameter.detach())
    yield from (buffer for name, buffer in model.named_buffers() if name in saved)


def _chunks(tensors: Iterable[Tensor], files: Iterable[Path]) -> Iterator[Any]:
    """The bytes of the tensors and of the files, part by part."""
    for tensor in tensors:
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                yield chunk


def _after_zlib(chunks: Iterable[Any]) -> int:
    # gzip's default level. Level 9 saves 1 % more of a sparse model and takes ten times as long.
    packer = zlib.compressobj(6)
    return sum(len(packer.compress(chunk)) for chunk in chunks) + len(packer.flush())


def _semi_structured(model: nn.Module) -> int:
    """Weights in linear layers that keep to 2:4, tied ones once."""
    weights = {module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    return sum(
        weight.numel()
        for weight in weights
        if weight.shape[-1] % 4 == 0 and bool((_values(weight).reshape(-1, 4).count_nonzero(1) <= 2).all())
    )


def _flops(model: nn.Module, inputs: Mapping[str, Any]) -> int | None:
    unseen = bool(file_models(model)) or any(map(is_quantized, model.parameters()))
    if unseen or attention_of(model) not in _COUNTED_ATTENTION:
        return None
    return count_flops(model, on_device(inputs, device_of(model)))


def _batch_size(inputs: Mapping[str, Any]) -> int:
    sizes = [len(value) for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim]
    if not sizes:
        raise ValueError(
            f"inputs must hold at least one tensor with a batch axis. Got {', '.join(inputs) or 'nothing'}."
        )
    return sizes[0]
