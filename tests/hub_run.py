"""What test_hub.py runs as a user of the hub that HF_ENDPOINT names: huggingface_hub reads it when it is imported."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shipping
import tiny
from huggingface_hub import HfApi, ModelCard, snapshot_download

from hf_compalign import AlignedDistillationTrainer, load_compressed
from hf_compalign.measure.audit import audit
from hf_compalign.measure.footprint import footprint
from hf_compalign.measure.predictions import predict
from hf_compalign.opening import model_fingerprint
from hf_compalign.ship import push_to_hub

DATA = shipping.raw_texts()


def same_answers(local: str | Path, fetched: str | Path) -> dict[str, Any]:
    ours, theirs = predict(local, DATA), predict(fetched, DATA)
    return {
        "mismatches": audit(ours, theirs).metrics["cie"],
        "distance": tiny.distance(theirs.logits, ours.logits),
        "fingerprints": [ours.model_fingerprint, theirs.model_fingerprint],
    }


def push(folder: Path) -> dict[str, Any]:
    commit = push_to_hub(folder, "tester/small", private=True, commit_message="Ship it")
    return {"url": str(commit), "oid": commit.oid}


def fetch(folder: Path) -> dict[str, Any]:
    load_compressed("tester/small")
    partial = footprint("tester/small").size_bytes  # before anything else of the repository is in the cache
    fetched = Path(snapshot_download("tester/small"))
    return {
        "files": sorted(path.relative_to(fetched).as_posix() for path in fetched.rglob("*") if path.is_file()),
        "model": same_answers(folder, "tester/small"),
        "onnx": same_answers(folder / "onnx" / "model_int8.onnx", fetched / "onnx" / "model_int8.onnx"),
        "openvino": same_answers(
            folder / "openvino" / "openvino_model.xml", fetched / "openvino" / "openvino_model.xml"
        ),
        "size_bytes": [partial, footprint("tester/small").size_bytes],
        "results": len(ModelCard.load("tester/small").data.eval_results),
    }


def card(folder: Path) -> list[Any]:
    """What the Python of the card comes to, as it stands there, block after block."""
    weights, *files, pair = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(weights, names)
    logits = []
    for code in files:
        exec(code, names)
        logits.append(names.pop("logits").tolist())
    exec(pair, names)
    return [names["classify"](["one text", "and another text"]), *logits, names["pair"].deferral.threshold]


def push_again(folder: Path) -> dict[str, Any]:
    """The same once more; then without the INT8 files, to a branch; into the cache it comes in part."""
    unchanged = push_to_hub(folder, "small").oid
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    for path in [*other.rglob("model_int8.*"), *other.rglob("openvino_model_qint8.*")]:
        path.unlink()
    (other / "checkpoint-2").mkdir()
    (other / "checkpoint-2" / "model.safetensors").write_bytes(b"weights")
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", ".hidden"):
        (other / name).write_bytes(b"not for others")
    push_to_hub(other, "tester/small", revision="float")
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="deferral.json", repo_id="tester/small", revision="float")
    push_to_hub(other, "tester/small", revision="float")
    return {"unchanged": unchanged}


def trainer(folder: Path) -> dict[str, Any]:
    """The Trainer's own push, and a model's."""
    model = shipping.model(shrunk=True)
    arguments = tiny.arguments(folder.with_name("trained"), max_steps=1, hub_model_id="tester/trained")
    training = AlignedDistillationTrainer(
        model, arguments, teacher=shipping.model(), train_dataset=tiny.texts(), processing_class=shipping.tokenizer()
    )
    training.train()
    training.push_to_hub()
    model.push_to_hub("tester/alone")
    fingerprints = [model_fingerprint(one) for one in (model, load_compressed("tester/trained"))]
    return {"fingerprints": [*fingerprints, model_fingerprint(load_compressed("tester/alone"))]}


def missing(folder: Path) -> str:
    try:
        load_compressed("tester/nothing")
    except ValueError as error:
        return str(error)
    return ""


STEPS: list[Callable[[Path], Any]] = [push, fetch, card, push_again, trainer, missing]

if __name__ == "__main__":
    found = {step.__name__: step(Path(sys.argv[1])) for step in STEPS}
    Path(sys.argv[2]).write_text(json.dumps(found))
