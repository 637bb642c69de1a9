"""What the commands that audit share: from their options to an audit, and from it to the screen and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from hf_compalign.cli import options
from hf_compalign.cli.rows import audited_rows
from hf_compalign.cli.screen import hush_loading, print_json, stdout

if TYPE_CHECKING:
    from hf_compalign.measure.attribution import AttributionOptions
    from hf_compalign.measure.audit import Audit
    from hf_compalign.measure.predictions import Columns


def checked_limits(given: Mapping[str, Any]) -> dict[str, float]:
    """The limits, after refusing options that would have no effect, and files that cannot be written."""
    from hf_compalign.measure.audit import checked_limits as checked

    grouped = given["groups"] or given["bins"]
    limits = checked(options.parsed_limits(given["limit"] or []), grouped=bool(grouped))
    if given.get("slices") and given["find_slices"]:
        raise ValueError("--slices checks slices that were found, --find-slices looks for others. Give one of them.")
    for needed, there, idle in (
        ("--attribution", given.get("attribution"), "attribution_items"),
        ("--groups or --bins", grouped, "min_group_size"),
        ("--output or --report", given["output"] or given["report"], "no_contents"),
    ):
        if not there and idle in given:
            options.refuse_ignored(f"There is no {needed}", given, [idle])
    options.check_targets(given["output"], given["report"], given["find_slices"])
    return limits


def audit_on_rows(
    reference: str, candidate: str, given: Mapping[str, Any], console: Console, *, limits: Mapping[str, float]
) -> "Audit":
    """The audit on the rows that the parameters of a command name."""
    from hf_compalign.measure.audit import AuditOptions, audit
    from hf_compalign.measure.groups import MIN_GROUP_SIZE
    from hf_compalign.measure.slices import Slices
    from hf_compalign.search import as_chosen

    rows = audited_rows(given, console)
    hush_loading()
    return audit(
        reference,
        as_chosen(candidate),
        rows,
        groups=_columns(given["groups"]) if given["groups"] else None,
        limits=limits,
        floor=given.get("floor"),
        attribution=_attribution(given.get("attribution"), given.get("attribution_items")),
        options=AuditOptions(
            columns=data_columns(given),
            batch_size=given["batch_size"],
            bins=given["bins"] or [],
            min_group_size=given["min_group_size"] or MIN_GROUP_SIZE,
            contents=bool(given["output"] or given["report"]) and not given["no_contents"],
            latency=given.get("latency", False),
            slices=Slices.load(given["slices"]) if given.get("slices") else bool(given["find_slices"]),
        ),
    )


def data_columns(given: Mapping[str, Any]) -> "Columns":
    """The columns that the parameters of a command name."""
    from hf_compalign.measure.predictions import Columns

    names = {name: given.get(f"{name}_column") for name in ("text", "image", "audio", "label", "id")}
    return Columns(**names | {"text": names["text"] or None}, pixels_per_image=given.get("pixels_per_image"))


def write_files(found: "Audit", console: Console, given: Mapping[str, Any]) -> None:
    """Write what --output, --find-slices and --report ask for."""
    if given["output"] is not None:
        found.save(given["output"])
    if given["find_slices"] is not None and found.slices is not None:
        found.slices.save(given["find_slices"])
    if given["report"] is not None:
        from hf_compalign.report.page import write_report

        write_report(given["report"], [found])
        console.print(f"The report is in {given['report']}")


def finish(found: "Audit", *, as_json: bool) -> None:
    """Print the audit, and exit with the code of its verdict."""
    if as_json:
        print_json(found.to_dict())
    else:
        print_audit(found)
    raise typer.Exit(0 if found.passed else options.BEYOND_A_LIMIT)


def print_audit(found: "Audit") -> None:
    """Print an audit to stdout, its verdict in color."""
    happened, verdict, *tables = str(found).split("\n")
    judged = found.limits or (found.slices is not None and found.slices.checked)
    style = "" if not judged else "bold green" if found.passed else "bold red"
    stdout().print(Text("\n").join([Text(happened), Text(verdict, style), *map(Text, tables)]))


def check_file(path: str | Path) -> None:
    """Raise a ValueError unless there is such a file."""
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")


def _columns(groups: Sequence[str]) -> list[str | tuple[str, ...]]:
    """The columns of --groups; those with a comma between them are crossed."""
    named = [tuple(name.strip() for name in columns.split(",")) for columns in groups]
    return [columns if len(columns) > 1 else columns[0] for columns in named]


def _attribution(method: str | None, n_items: int | None) -> "AttributionOptions | None":
    """As many mismatches as items at large, since a report shows them one by one."""
    if method is None:
        return None
    from hf_compalign.measure.attribution import AttributionOptions

    items = n_items or AttributionOptions.n_items
    return AttributionOptions(method=None if method == "default" else method, n_items=items, n_mismatches=items)
