"""Send what `save_artifact` wrote to the Hub, all of it in one commit."""

import logging
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, but not in an __all__

from hf_compalign._exported import FORMATS, format_of, record_name
from hf_compalign._files import AUDIT_NAME
from hf_compalign.measure.audit import Audit
from hf_compalign.models import check_belongs
from hf_compalign.opening import load_model, model_fingerprint
from hf_compalign.ship.deferral import DEFERRAL_NAME, Deferral, deferral_name
from hf_compalign.ship.deferrals import PAIR_AUDIT_NAME

CARD = "README.md"
# An artifact has one of these: the weights as transformers writes them, or small ones that only load_compressed reads.
WEIGHTS = ("model.safetensors", "model.quanto.safetensors", "model.safetensors.index.json")
# What a training leaves beside its model; and pickles, which nobody should have to open.
NOT_SENT = ["checkpoint-*", "runs", "trainer_state.json", "*.distcp", "*.tmp", "__pycache__", ".*"]
NOT_SENT += ["*.bin", "*.pickle", "*.pkl", "*.pt", "*.pth"]

logger = logging.getLogger(__name__)


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload the model with its audits",
) -> CommitInfo:
    """Send an artifact to a model repository in one commit; make the repository if there is none.

    Checkpoints, optimizer states, logs and pickles in the folder stay where they are. The commit removes exported files
    and deferrals that the repository holds and the folder does not, as no audit speaks of them.

    Args:
        folder: as written by `save_artifact`.
        repo_id: "user/name", or "name" for the user's own.
        private: whether a new repository is private; by default as the account has it.
        token: as for huggingface_hub: by default that of `hf auth login`.
        revision: the branch, which is made if there is none; by default the main one.
        commit_message: its first line.

    Returns:
        The commit, with its URL.

    Raises:
        ValueError: the folder lacks the card, the weights or an audit, has an audit or a deferral of other weights,
            weights of two kinds, or a link that leads out of it.
        HFValidationError: the Hub allows no such id; it is a ValueError.
        HfHubHTTPError: the Hub refuses, as without a token that may write; it is an OSError.
    """
    validate_repo_id(repo_id)
    files = checked_files(folder)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    _warn_of_another_name(files[CARD], repo_id)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    held = api.list_repo_files(repo_id, revision=revision)
    folders = tuple(f"{one.folder}/" for one in FORMATS)
    ours = [name for name in held if name.startswith(folders) or name in (DEFERRAL_NAME, PAIR_AUDIT_NAME)]
    stale = [name for name in ours if name not in files]
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    deletions = [CommitOperationDelete(name) for name in stale]
    # Upload_folder would make several commits of a large folder.
    return api.create_commit(repo_id, additions + deletions, commit_message=commit_message, revision=revision)


def checked_files(folder: str | Path) -> dict[str, Path]:
    """Name in the repository -> file; a ValueError as in `push_to_hub`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r} to send. Write one with save_artifact.")
    files = dict(_sent(folder))
    exported = [name for name in files if format_of(name) is not None]
    kinds = [name for name in WEIGHTS if name in files]
    weights = kinds[0] if kinds else WEIGHTS[0]
    audits = [audit_name(name) for name in (weights, *exported)]
    missing = [name for name in (CARD, "config.json", weights, *audits) if name not in files]
    if missing:
        raise ValueError(
            f"{folder} is not an artifact: it lacks {', '.join(missing)}. Write the folder with save_artifact, which "
            "audits every file; a model without an audit is sent by its own push_to_hub."
        )
    if len(kinds) > 1:
        raise ValueError(
            f"{folder} holds {' and '.join(kinds)}, and its audit is of one of them. Remove the one of another model, "
            "or write a new folder with save_artifact."
        )
    for name in (weights, *exported):
        path, where = files[audit_name(name)], folder if name == weights else files[name]
        found = model_fingerprint(load_model(where))
        check_belongs(path, Audit.load(path).candidate.model_fingerprint, where, found)
        if deferral_name(name) in files:
            Deferral.load(files[deferral_name(name)]).check_candidate(name, found)
    _refuse_idle_deferrals(folder, files, {*map(deferral_name, (weights, *exported))})
    return files


def audit_name(name: str) -> str:
    """The place of a file's audit.

    >>> audit_name("onnx/model.onnx"), audit_name("model.safetensors")
    ('onnx/model.audit.json', 'audit.json')
    """
    return record_name(name, AUDIT_NAME)


def _refuse_idle_deferrals(folder: Path, files: Mapping[str, Path], known: Collection[str]) -> None:
    """A deferral says nothing without the file that it lies beside."""
    idle = [name for name in files if name.endswith(f".{DEFERRAL_NAME}") and name not in known]
    if idle:
        raise ValueError(
            f"{folder} holds {', '.join(idle)} without the file that it was fitted for. Put the file there, or remove "
            "the deferral."
        )


def _sent(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        parts = name.parts[:-1] if _holds_weights(path) else name.parts
        if path.is_file() and not any(fnmatchcase(part, pattern) for part in parts for pattern in NOT_SENT):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(
                    f"{path} is a link that leads out of the folder. Put the file itself there, to send it."
                )
            yield name.as_posix(), path


def _holds_weights(path: Path) -> bool:
    """Whether an exported file of the same name keeps its weights there."""
    return any(path.suffix == one.weights != "" and path.with_suffix(one.suffix).is_file() for one in FORMATS)


def _warn_of_another_name(card: Path, repo_id: str) -> None:
    if f'"{repo_id}"' not in card.read_text(encoding="utf-8"):
        logger.warning(
            "The card does not say how to load %r, as it was written for another name. Give save_artifact "
            "CardDetails(name=%r).",
            repo_id,
            repo_id,
        )
