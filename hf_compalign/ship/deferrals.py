"""The deferrals of an artifact: which file leaves some items to which other model."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from hf_compalign._exported import FORMATS, record_name
from hf_compalign._files import AUDIT_NAME
from hf_compalign._visible import public_name
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.measure.predictions import Predictions
from hf_compalign.opening import Model, load_model, model_fingerprint
from hf_compalign.report.card import Deferred
from hf_compalign.ship.deferral import DEFERRAL_NAME, Deferral, DeferringModel, deferral_name

PAIR_AUDIT_NAME = f"pair.{AUDIT_NAME}"

logger = logging.getLogger(__name__)


def deferrals_in(folder: Path) -> set[str]:
    """The deferrals in the folder of an artifact, and the audits of pairs, by their names there."""
    records = (DEFERRAL_NAME, PAIR_AUDIT_NAME)
    patterns = [*records, *(f"{one.folder}/*.{record}" for one in FORMATS for record in records)]
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)}


def refuse_left_deferrals(folder: Path, names: Mapping[str, Deferral], dropped: Collection[str] = ()) -> None:
    """A deferral of an earlier artifact would lie there, and the card would not speak of it, unless it is dropped."""
    new = {*map(deferral_name, names), *map(pair_audit_name, names)}
    left = sorted(deferrals_in(folder) - new - {*dropped})
    if left:
        raise ValueError(
            f"{folder} holds {', '.join(left)}, which would be no part of the new artifact. Remove it, list its file "
            "in deferrals=, or give another folder."
        )


def pair_name(name: str) -> str:
    """What a file and the model behind it are called together.

    >>> pair_name("onnx/model_int8.onnx"), pair_audit_name("onnx/model_int8.onnx")
    ('onnx/model_int8.onnx, deferring', 'onnx/model_int8.pair.audit.json')
    """
    return f"{name}, deferring"


def pair_audit_name(name: str) -> str:
    """The place of the audit of a file and the model behind it."""
    return record_name(name, PAIR_AUDIT_NAME)


def opened_pairs(
    deferrals: Mapping[str, Deferral], places: Mapping[str, Model], original: Model | None
) -> dict[str, DeferringModel]:
    """Each file that defers together with what is behind it, if that is another of the files, a pair or the original.

    Args:
        deferrals: by the name of the file.
        places: where each file of the artifact is.
        original: the model that they are compared with; None where only its answers are known.
    """
    models = {name: load_model(place) for name, place in places.items()} if deferrals else {}
    known = [*models.values(), *([load_model(original)] if deferrals and original is not None else [])]
    behind = {model_fingerprint(model): model for model in known}
    pairs: dict[str, DeferringModel] = {}
    for _ in deferrals:  # in any order: a pair may be behind another
        for name, deferral in deferrals.items():
            mark = deferral.behind.model_fingerprint
            if name not in pairs and mark in behind:
                pairs[name] = DeferringModel(models[name], behind[mark], deferral)
                behind[pairs[name].fingerprint] = pairs[name]
    return pairs


def check_deferrals(deferrals: Mapping[str, Deferral], places: Mapping[str, Model]) -> None:
    """Refuse deferrals of files that are not there, or that were fitted for others.

    Args:
        deferrals: by the name of the file.
        places: where each file of the artifact is.
    """
    for name, deferral in deferrals.items():
        if name not in places:
            raise ValueError(
                f"There is no file {name!r} in the artifact that could defer. It holds {', '.join(places)}. Name one "
                "of these in deferrals=."
            )
        deferral.check_candidate(name, model_fingerprint(load_model(places[name])))


def save_deferrals(
    work: Path, deferrals: Mapping[str, Deferral], files: Mapping[str, ModelInfo], original: Predictions
) -> dict[str, Deferred]:
    """Write each beside its file, with names that say something to others, and return what the card says.

    Args:
        work: the folder of the artifact.
        deferrals: by the name of the file.
        files: all files of the artifact, by their names there.
        original: the answers that they are compared with.
    """
    alone = {one.model_fingerprint: name for name, one in files.items()}
    paired = {
        one.pair_fingerprint(one.candidate.model_fingerprint, one.behind.model_fingerprint): name
        for name, one in deferrals.items()
    }
    said = {}
    for name, deferral in deferrals.items():
        behind = deferral.behind
        within = alone.get(behind.model_fingerprint) or paired.get(behind.model_fingerprint)
        model = files[within].model if within is not None else _outside(name, behind, original)
        named = replace(deferral, candidate=replace(deferral.candidate, model=files[name].model))
        if deferral.fallback is None:
            named = replace(named, reference=replace(behind, model=model))
        else:
            reference = replace(deferral.reference, model=_outside(name, deferral.reference, original))
            named = replace(named, reference=reference, fallback=replace(behind, model=model))
        named.save(work / deferral_name(name))
        words = " ".join(str(named).splitlines())
        said[name] = Deferred(words, within or model, pair=behind.model_fingerprint in paired)
    return said


def _outside(name: str, reference: ModelInfo, original: Predictions) -> str:
    """What to call a reference that is not in the artifact; the original is expected."""
    if reference.model_fingerprint in ("", original.model_fingerprint):
        return original.model
    found = public_name(reference.model)
    logger.warning(
        "The deferral of %s was fitted for the reference %s (%s), which is neither the original %s (%s) nor a file of "
        "the artifact: no audit in it speaks of that model.",
        name,
        found,
        reference.model_fingerprint,
        original.model,
        original.model_fingerprint or "unknown",
    )
    return found
