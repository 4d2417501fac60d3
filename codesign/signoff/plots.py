"""The report's figures, as SVG to be put into an HTML page."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingToolError
from codesign.signoff.comparison import Comparison, StepErrors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float64Array = npt.NDArray[np.float64]
P = ParamSpec("P")

BOUND, DEVICE, SEARCH = "#8fa8cc", "#b8400e", "#1f2937"
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6b7280",
    "axes.labelcolor": "#1f2937",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_LOG_RATIO = 20.0  # between the largest and the least value, from where on an axis is logarithmic


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Run a drawing function in the report's style."""

    @functools.wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            import matplotlib
        except ImportError:
            raise MissingToolError("matplotlib is missing: pip install 'codesign[report]'") from None
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return run


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


@_styled
def outputs_figure(comparison: Comparison, bound: Float64Array, searched: Float64Array) -> str:
    """Per output: certified bound, median and largest of regions; largest error seen on the device; largest that the
    adversarial search found. `bound`, `searched`: (regions, O). '' where nothing was run."""
    error = comparison.error
    if not error.size:
        return ""
    position = np.arange(error.shape[1])
    figure, axes = _figure(6.4, 3.1)
    drawn = [error.max(axis=0)]
    if bound.ndim == 2 and len(bound) and bound.shape[1] == error.shape[1]:
        median, largest = np.median(bound, axis=0), bound.max(axis=0)
        drawn += [median, largest]
        axes.bar(position, median, 0.72, color=BOUND, label="certified bound, median of regions")
        spread = np.vstack([np.zeros_like(median), largest - median])
        axes.errorbar(
            position, median, spread, fmt="none", ecolor="#48618a", capsize=3, lw=1, label="up to the largest"
        )
    axes.plot(position, error.max(axis=0), "o", ms=5, color=DEVICE, label="largest error seen on the device")
    if searched.shape == bound.shape and len(drawn) > 1:
        drawn.append(searched.max(axis=0))
        axes.plot(position, drawn[-1], "_", ms=11, mew=2, color=SEARCH, label="largest found by adversarial search")
    _scale(axes, drawn)
    axes.set(title="Per output", xlabel="output", ylabel="|integer − float|")
    axes.grid(False, axis="x")
    if len(position) <= 24:
        axes.set_xticks(position)
    return _finish(figure, "outputs")


@_styled
def samples_figure(comparison: Comparison) -> str:
    """Per sample: error against certified bound of the output that uses most of its bound; '' without bounds."""
    have = ~np.isnan(comparison.bound).any(axis=1) if comparison.bound.size else np.zeros(0, bool)
    if not have.any():
        return ""
    bounds, errors = comparison.bound[have], comparison.error[have]
    share = np.divide(errors, bounds, out=np.where(errors > 0, np.inf, 0.0), where=bounds > 0)
    worst = share.argmax(axis=1)[:, None]
    bound, error = (np.take_along_axis(v, worst, axis=1)[:, 0] for v in (bounds, errors))
    figure, axes = _figure(6.4, 3.1)
    top = float(max(bound.max(), error.max())) or 1.0
    low = float(min(bound[bound > 0].min(initial=top), error[error > 0].min(initial=top)))
    if top / low > _LOG_RATIO:
        _logarithmic(axes, "x")
        _logarithmic(axes, "y")
        axes.set(xlim=(0.8 * float(bound.min() or low), 1.25 * top), ylim=(0.7 * low, 1.4 * top))
        line = np.array([0.5 * low, 2.0 * top])
        error = np.maximum(error, low)
    else:
        axes.set(xlim=(0, 1.05 * top), ylim=(0, 1.05 * top))
        line = np.array([0.0, 2.0 * top])
    axes.fill_between(line, line, [axes.get_ylim()[1] * 2] * 2, color="#fbe4e0", lw=0)
    axes.plot(line, line, color="#b91c1c", lw=1, label="error = bound (above: violation)")
    axes.plot(bound, error, "o", ms=4, alpha=0.7, mew=0, color=DEVICE, label="samples")
    axes.set(title="Per sample, output nearest its bound", xlabel="certified bound", ylabel="error on the device")
    return _finish(figure, "samples")


@_styled
def steps_figure(steps: StepErrors, number: int) -> str:
    """Per time step of one LSTM: hidden state's largest and mean error over samples; the device's own; the bound."""
    time = np.arange(1, len(steps.largest) + 1)
    figure, axes = _figure(6.4, 2.9)
    if steps.bound is not None:
        axes.plot(time, steps.bound, color="#48618a", lw=1.6, label="certified bound, largest of regions")
    axes.plot(time, steps.largest, "-o", ms=3.5, color=DEVICE, label=f"largest of {steps.samples} samples")
    axes.plot(time, steps.mean, "--", color=DEVICE, alpha=0.7, label="mean of samples")
    if steps.device is not None:
        axes.plot(time, steps.device, "x", ms=5, color=SEARCH, label="traced on the device")
    _scale(axes, [steps.largest, *([steps.bound] if steps.bound is not None else [])])
    axes.set(
        title=f"Hidden state of {steps.layer.replace('$', '')}, per time step",
        xlabel="time step",
        ylabel="max |integer h − float h|",
    )
    axes.set_xlim(0.5, len(time) + 0.5)
    return _finish(figure, f"steps{number}")


def _logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with few, plain labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _scale(axes: Axes, values: list[Float64Array]) -> None:
    flat = np.concatenate([v.reshape(-1) for v in values])
    positive = flat[flat > 0]
    if positive.size and float(positive.max()) / float(positive.min()) > _LOG_RATIO:
        _logarithmic(axes, "y")
        axes.set_ylim(bottom=0.5 * float(positive.min()))
    else:
        axes.set_ylim(bottom=0)


def _finish(figure: Figure, prefix: str) -> str:
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": prefix}):
        figure.legend(loc="outside lower center", ncols=2)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(stream.getvalue(), prefix)


def _inline(svg: str, prefix: str) -> str:
    """The <svg> element alone, with ids of its own: a page holds several figures."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg [^>]*?)\bheight="[^"]*"', r'\1role="img"', svg, count=1)
