"""An audit for a model card: its short tables in Markdown."""

from dataclasses import replace

from hf_compalign._tables import escaped, section_as_markdown
from hf_compalign.measure.audit.record import Audit, metrics_beside_fields
from hf_compalign.measure.audit.sections import sections_of


def findings(audit: Audit) -> str:
    """The short tables of an audit, without texts and images of the data, and without the costs."""
    found = metrics_beside_fields(replace(audit, items=(), group_rates=(), costs=()).to_dict())
    shown = (section for section in sections_of(found) if section.shown(0))
    return "\n\n".join(f"**{escaped(section.title)}**\n\n{section_as_markdown(section)}" for section in shown)
