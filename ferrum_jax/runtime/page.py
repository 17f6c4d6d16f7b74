"""A figure without a display: what every `plot` of the library draws on."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from ferrum_jax.types import UnsupportedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_page(who: str, width: float, height: float) -> Figure:
    """An empty figure of a size in inches. As the last value of a notebook's cell it is shown.

    Args:
        who: whose `plot` asks, for the message.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            f"{who}.plot draws with matplotlib, which is not installed; "
            "run `pip install matplotlib`"
        ) from error

    class Page(Figure):
        def _repr_png_(self) -> bytes:
            image = BytesIO()
            self.savefig(image, format="png", dpi=100)
            return image.getvalue()

    page = Page(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(page)
    return page
