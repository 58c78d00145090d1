"""The style of all figures, and figures as SVG and PNG.

The same numbers produce the same bytes: no dates or versions, a fixed salt for ids, matplotlib's bundled fonts, and no
user settings. The palette is that of Okabe and Ito (2008), safe for color-blind readers.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.dpi": 200,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "synrep",
    "text.parse_math": False,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Make the figures of this context in the style of this benchmark."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def draw(make: Callable[[], Figure]) -> dict[str, bytes]:
    """Return file extension -> the figure that `make` returns, as `svg` and `png`, in the style of this benchmark."""
    with style():
        figure = make()
        svg, png = io.BytesIO(), io.BytesIO()
        # A canvas draws the figure once; `savefig` would draw it another time before, without output.
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # keeps the layout
        figure.dpi = matplotlib.rcParams["savefig.dpi"]  # an SVG has 72
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return {"svg": svg.getvalue(), "png": png.getvalue()}
