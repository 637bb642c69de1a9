"""hf-compalign plan."""

from typing import Annotated

import typer
from rich.text import Text

from hf_compalign.cli import options
from hf_compalign.cli.screen import clear_errors, print_json, stderr, stdout


def plan(
    limit: options.Limits = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="A rate to plan for, such as 0.005. Repeatable. Default: 0 to 3/4 limit.")
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="How many items there are: what can they show at best?")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say how many items it takes to show that a limit is kept, before any model is asked.

    Limits: mismatch_rate, of all items; nfr, pfr and flip_rate, of the labeled ones. "items needed" is for a sample
    with just this rate. A sample has more or less than the true rate by chance: the last column is for passing 4 times
    in 5 if the rate is the true one.
    """
    with clear_errors(stderr()):
        from hf_compalign._checks import check_name
        from hf_compalign._records import plain
        from hf_compalign.measure.statistics import RATE_LIMITS, plan_items

        limits = options.parsed_limits(limit or [])
        if not limits:
            raise ValueError("There is no limit to plan for. Give one, such as --limit mismatch_rate=0.01.")
        for name in limits:
            check_name("limit to plan for", name, RATE_LIMITS)
        plans = {name: plan_items(most, rates=rate, n=items) for name, most in limits.items()}
    if as_json:
        print_json({name: plain(one) for name, one in plans.items()})
    else:
        stdout().print(Text("\n\n".join(f"{name}\n{one}" for name, one in plans.items())))
