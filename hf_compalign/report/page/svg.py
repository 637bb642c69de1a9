"""A figure as one inline SVG for a page: in the page's own text color, and without anything its policy forbids."""

import hashlib
import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from hf_compalign._extras import needs_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMESPACE = "http://www.w3.org/2000/svg"
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_BLACK = ("#000000", "black")
# The page names the font; matplotlib lists names that hardly any reader has.
_ROOT = {
    "fill": "currentColor",
    "stroke-linejoin": "round",
    "stroke-linecap": "butt",
    "font-family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
}


def inline_svg(figure: "Figure", *, label: str) -> str:
    """The figure as one ``<svg>`` element for an HTML page, light or dark.

    Black, above all text and axes, becomes the color of the page's text (``currentColor``), and the background is
    transparent. Looks are presentation attributes, which a Content-Security-Policy without inline styles lets through.
    Text stays text, the element loads nothing, and a figure made anew gives the same bytes. Ids come from the figure
    and the label, so two figures share none on a page.

    Args:
        figure: of matplotlib, such as one of `hf_compalign.report.plots`.
        label: what the figure shows, for those who do not see it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the label is empty.
    """
    if not label.strip():
        raise ValueError("A figure in a page needs a label that says what it shows, for those who do not see it.")
    root = ElementTree.fromstring(_NOT_XML.sub("", _drawn(figure)))
    size = {name: root.attrib[name] for name in ("width", "height", "viewBox")}
    _clean_(root)
    root.attrib = {"xmlns": _NAMESPACE} | size | _ROOT | {"role": "img", "aria-label": _NOT_XML.sub("", label)}
    _name_(root)
    return ElementTree.tostring(root, encoding="unicode")


def _drawn(figure: "Figure") -> str:
    with needs_extra("report", what="A figure"):
        from matplotlib import rc_context, style

    buffer = io.StringIO()
    own = {"svg.fonttype": "none", "svg.hashsalt": "hf_compalign"}
    # Some texts are made when a figure is drawn, in the style of that moment.
    with style.context("default"), rc_context(own), warnings.catch_warnings():
        # The browser has the letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _clean_(root: ElementTree.Element) -> None:
    """Attributes for styles, no namespaces, and neither metadata nor whitespace between elements."""
    for parent in [*root.iter()]:
        for child in [*parent]:
            if _plain(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _plain(element.tag)
        element.tail = None
        if element.tag not in ("text", "tspan"):
            element.text = None
        looks = element.attrib.pop("style", "")
        found = {_plain(name): " ".join(value.split()) for name, value in element.attrib.items()}
        for look in filter(None, looks.split(";")):
            name, value = look.split(":", 1)
            found[name.strip()] = value.strip()
        shown = {name: "currentColor" if value in _BLACK else value for name, value in found.items()}
        element.attrib = {name: value for name, value in shown.items() if _kept(name, value)}


def _plain(name: str) -> str:
    return name.rpartition("}")[2]


def _kept(name: str, value: str) -> bool:
    if name == "href":
        return value.startswith(("#", "data:"))
    return name != "font-family" and not value.startswith("rotate(-0 ")


def _name_(root: ElementTree.Element) -> None:
    """Give ids to what an attribute refers to, and to nothing else."""
    digest = hashlib.sha256(ElementTree.tostring(root)).hexdigest()[:10]
    used: dict[str, str] = {}
    for element in root.iter():
        for name, value in element.attrib.items():
            old = _referred(name, value)
            if old:
                element.attrib[name] = value.replace(old, used.setdefault(old, f"f{digest}-{len(used)}"))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.attrib["id"] = used[own]


def _referred(name: str, value: str) -> str:
    """The id that an attribute refers to; none where it refers to nothing."""
    if name == "href":
        return value[1:] if value.startswith("#") else ""
    return value[5:-1] if name != "aria-label" and value.startswith("url(#") else ""
