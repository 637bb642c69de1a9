"""Find the deferral that lies beside a model."""

from pathlib import Path

from torch import nn
from transformers.utils import cached_file

from hf_compalign._exported import format_of
from hf_compalign.opening import name_of
from hf_compalign.ship.deferral.record import DEFERRAL_NAME, Deferral, deferral_name


def deferral_beside(candidate: nn.Module) -> Deferral:
    """The deferral beside a candidate's file, or else in its folder, which may be on the Hub.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    where = name_of(candidate)
    if not where:
        raise ValueError(
            "The candidate was made in memory, so no deferral lies beside it. Give deferral=, from fit_deferral or as "
            "the path of its JSON."
        )
    names, folder = [DEFERRAL_NAME], Path(where)
    if format_of(where) is not None:
        names, folder = [Path(deferral_name(where)).name, *names], folder.parent
    for name in names:
        try:
            found = cached_file(str(folder), name)
        except OSError:  # not there
            continue
        return Deferral.load(found)
    raise ValueError(
        f"There is no deferral beside {where}: no {' and no '.join(names)}. Fit one with fit_deferral, and save it "
        "there or give it as deferral=."
    )
