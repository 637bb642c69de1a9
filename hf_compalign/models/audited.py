"""Whether the audit that `save_artifact` puts beside weights is still that of these weights."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hf_compalign._files import read_json
from hf_compalign._records import built
from hf_compalign.models.processor import instruction_sets
from hf_compalign.models.runtime import Runtime

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Audited:
    model: str
    model_fingerprint: str
    runtime: Runtime | None = None


@dataclass(frozen=True)
class _AuditOf:
    """What an audit says of its candidate."""

    candidate: _Audited


def check_audited(audit: Path, names: tuple[str, ...], where: Path, fingerprint: Callable[[], str]) -> None:
    """Refuse weights that `save_artifact` has audited and that have changed since; other audits say nothing.

    Args:
        audit: where it puts the audit.
        names: how it calls such weights, at the end of the candidate's name.
        where: the folder or the file of the weights.
        fingerprint: works out which weights they are, only if there is such an audit.
    """
    try:
        audited = built(_AuditOf, read_json(audit)).candidate
    except (OSError, ValueError):  # none, or none that can be read, which a push refuses
        return
    if audited.model.endswith(names):
        check_belongs(audit, audited.model_fingerprint, where, fingerprint())
        _warn_of_another_cpu(where, audited.runtime)


def _warn_of_another_cpu(where: Path, runtime: Runtime | None) -> None:
    """Other kernels round otherwise, and INT8 without VNNI instructions may even be wrong."""
    here = instruction_sets()
    if runtime is not None and runtime.instructions and here and runtime.instructions != here:
        logger.warning(
            "%s was audited on a CPU with %s, and this one has %s: its answers may differ. Audit it here.",
            where,
            " ".join(runtime.instructions),
            " ".join(here),
        )


def check_belongs(audit: Path, audited: str, where: Path, found: str) -> None:
    """Refuse an audit of other weights, as after a training into the folder."""
    if audited != found:
        raise ValueError(
            f"{audit} is of other weights ({audited or 'unknown'}) than those of {where} ({found}), which have changed "
            f"since. Write the folder again with save_artifact and overwrite=True; or remove {audit.name}, to audit "
            "them again."
        )
