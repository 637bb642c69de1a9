"""What test_sharding.py runs in two processes: trainings under FSDP version 2, their results written by the first."""

import json
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from processes import leave_group
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_compalign import AlignedDistillationTrainer, PruningCallback
from hf_compalign.compress import refuse_unsupported, same_everywhere_, whole, write_
from hf_compalign.compress.callbacks import ShrinkCallback

PROCESSES = 2
STEPS = 6
PATTERNS = ("layer", "global")
SCORES = ("movement", "obs")
SHRINKING: dict[str, dict[str, Any]] = {
    "gradual": {"heads": 0.5, "ffn": 0.5, "n_layers": 1, "begin": 0.0, "end": 0.8, "every": 1},
    "magnitude": {"heads": 0.5, "ffn": 0.25, "score": "magnitude"},
    "at-once": {"ffn": 0.5, "n_layers": 1, "schedule": "constant", "reconstruct": True},
}
FSDP2 = {"version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]}


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    """The same optimizer steps in one process and in two; under FSDP where it is configured."""
    launched = dist.is_torchelastic_launched()
    size = 8 // PROCESSES if launched else 8
    saving = {"save_steps": 2, "logging_steps": 1}
    optimizer = {"optim": "sgd", "learning_rate": 0.05, "ddp_backend": "gloo" if launched else None}
    args = tiny.arguments(folder, per_device_train_batch_size=size, **(saving | optimizer | settings))
    if args.fsdp:
        # accelerate gives its FSDP plugin to GPUs and the like only. FSDP itself works on the CPU, with gloo.
        args.device  # noqa: B018 - starts the processes' group
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return args


def build(folder: Path, *callbacks: TrainerCallback, plain: bool = False, **settings: Any) -> Trainer:
    kind = Trainer if plain else AlignedDistillationTrainer
    more = {} if plain else {"teacher": tiny.bert(seed=1), "eval_dataset": tiny.texts(10, seed=5)}
    args = arguments(folder, **settings)
    return kind(tiny.bert(seed=2), args, train_dataset=tiny.texts(), callbacks=list(callbacks), **more)


def flat(model: torch.nn.Module) -> list[float]:
    return torch.cat([whole(parameter).reshape(-1) for parameter in model.parameters()]).tolist()


def summary(trainer: Trainer) -> dict[str, Any]:
    sparsities = [log["sparsity"] for log in trainer.state.log_history if "sparsity" in log]
    return {"parameters": flat(trainer.model), "sparsities": sparsities}


def train(
    folder: Path, pattern: str | None, *, score: str = "magnitude", resume: str | None = None, **settings: Any
) -> dict[str, Any]:
    callback = PruningCallback(0.6, score=score, pattern=pattern, every=1, begin=0.0, end=0.8)
    trainer = build(folder, callback, **settings)
    trainer.train(resume_from_checkpoint=resume)
    optimized = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    return summary(trainer) | {
        "sharded": all(isinstance(weight, DTensor) for weight in callback._weights.values()),
        "optimized": all(id(weight) in optimized for weight in callback._weights.values()),
    }


def resumed(folder: Path, **settings: Any) -> dict[str, Any]:
    """A training, and one that goes on from its checkpoint in the middle."""
    one = train(folder / "whole", "global", optim="adamw_torch", **settings)
    middle = str(folder / "whole" / "checkpoint-4")
    try:
        two = train(folder / "resumed", "global", optim="adamw_torch", resume=middle, **settings)
    except ValueError as error:
        return {"whole": one, "refused": str(error)}
    return {"whole": one, "resumed": two}


def shrink(folder: Path, kind: str, *, resume: str | None = None, **settings: Any) -> dict[str, Any]:
    """A training that removes units, and what is left of the model: in memory, its answers, and in a folder."""
    trainer = build(folder, ShrinkCallback(**SHRINKING[kind]), **settings)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "saved"))
    return {
        "parameters": flat(trainer.model),
        "predictions": trainer.predict(tiny.texts(10, seed=5)).predictions.tolist(),
        "removed": [log["ffn_removed"] for log in trainer.state.log_history if "ffn_removed" in log],
    }


def shrunk(folder: Path, **settings: Any) -> dict[str, Any]:
    """All kinds of shrinking; and some that go on from their checkpoint in the middle."""
    unsaved = settings | {"save_strategy": "no"}
    results: dict[str, Any] = {kind: shrink(folder / kind, kind, **unsaved) for kind in SHRINKING}
    for kind in ("gradual", "at-once"):
        adam = settings | {"optim": "adamw_torch", "max_steps": 4}
        whole = shrink(folder / f"whole-{kind}", kind, **adam)
        middle = str(folder / f"whole-{kind}" / "checkpoint-2")
        results[f"resumed-{kind}"] = [whole, shrink(folder / f"resumed-{kind}", kind, resume=middle, **adam)]
    return results


def refused(folder: Path, *callbacks: TrainerCallback, **settings: Any) -> str:
    try:
        build(folder, *callbacks, plain=True, **settings).train()
    except ValueError as error:
        return str(error)
    return "not refused"


def zeros_by_chance(folder: Path, **settings: Any) -> dict[str, Any]:
    """A weight in the last process's shard is 0 and not pruned; the first process alone asks for the state."""
    callback = PruningCallback(0.5)
    build(folder, callback, plain=True, save_strategy="no", **settings).train()
    name, weight = next(iter(callback._weights.items()))
    masks = {name: whole(mask) for name, mask in callback._masks.items()}
    kept = tuple(masks[name].nonzero()[-1])
    values = whole(weight).clone()
    values[kept] = 0.0
    write_(weight, values)
    callback._apply()
    saved = [callback.state()["progress"] if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(saved)
    callback._restore(callback.progress(**json.loads(json.dumps(saved[0]))))
    return {
        "written": torch.equal(whole(weight), values),
        "of_last": bool(kept[0] >= len(values) / 2),
        "zeros": list(saved[0]["unpruned_zeros"]) == [name],
        "masks": all(torch.equal(whole(callback._masks[other]), mask) for other, mask in masks.items()),
    }


def refusal(folder: Path) -> str:
    """What is said of a model under FSDP version 1, which accelerate cannot set up on the CPU."""
    try:
        refuse_unsupported(tiny.arguments(folder), FullyShardedDataParallel(tiny.bert(), device_id=torch.device("cpu")))
    except ValueError as error:
        return str(error)
    return "not refused"


def same_everywhere() -> list[float]:
    rank = dist.get_rank()
    tensors = [torch.arange(6.0).view(2, 3).t() + rank, torch.tensor([rank == 0, True])]
    same_everywhere_(tensors)
    return [value for tensor in tensors for value in tensor.double().reshape(-1).tolist()]


if __name__ == "__main__":
    output = Path(sys.argv[1])
    fsdp = {"fsdp": True, "fsdp_config": FSDP2}
    shards = {"fsdp": True, "fsdp_config": FSDP2 | {"state_dict_type": "SHARDED_STATE_DICT"}}
    results = {
        "ddp": shrunk(output / "ddp"),
        "fsdp": shrunk(output / "fsdp", **fsdp),
        "target": refused(output / "target", ShrinkCallback(target_flops=0.5), **fsdp),
        "both": refused(output / "both", ShrinkCallback(ffn=0.5), PruningCallback(0.5, begin=0.5, end=0.8), **fsdp),
        "patterns": {pattern: train(output / pattern, pattern, **fsdp) for pattern in PATTERNS},
        "scores": {score: train(output / score, None, score=score, max_grad_norm=0.1, **fsdp) for score in SCORES},
        "full": resumed(output / "full", **fsdp),
        "shards": resumed(output / "shards", **shards),
        "learned": resumed(output / "learned", score="movement", **fsdp),
        "learned-shards": resumed(output / "learned-shards", score="movement", **shards),
        "zeros": zeros_by_chance(output / "zeros", **fsdp),
        "refusal": refusal(output / "refused"),
    }
    gathered: list[Any] = [None] * PROCESSES
    dist.all_gather_object(gathered, results | {"same": same_everywhere()})
    if dist.get_rank() == 0:
        (output / "results.json").write_text(json.dumps(gathered))
    leave_group()
