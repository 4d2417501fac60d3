"""Options and parsing that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from codesign.verification import Neighbourhood, Options

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


def domain(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """Parse LO,HI."""
    if value is None:
        return None
    parts = value.split(",")
    try:
        lo, hi = (float(part) for part in parts)
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a range; give LO,HI, for example --domain=-1,1") from None
    return lo, hi


def outputs(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parse I,J."""
    if value is None:
        return None
    try:
        above, below = (int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no pair of outputs; give I,J, for example --ranking 2,0") from None
    return above, below


@dataclass(frozen=True)
class More:
    """Options of a certification on regions, criteria on the order of outputs, and the run itself."""

    noise: Path | None
    free_from: int
    grid: int | None
    regions: Path | None
    top1_above: float | None
    topk: int | None
    ranking: tuple[int, int] | None
    threshold: tuple[str, ...]
    time_limit: float | None
    resume: Path | None
    method: Literal["zonotope", "quadratic"]
    different_models: bool

    def around(self) -> Neighbourhood:
        from codesign.verification import Neighbourhood

        return Neighbourhood(self.noise, self.free_from, self.grid, self.regions)


different_models = click.option(
    "--different-models", is_flag=True, help="Allow int8 weights that are not the float model's, rounded."
)
_MORE = [
    different_models,
    click.option("--noise", type=FILE, help="Half-widths in place of a radius: (D,) or (T, D), .csv or .npz."),
    click.option("--free-from", type=int, default=0, help="Steps before this one are fixed at the sample."),
    click.option("--grid", type=int, metavar="K", help="All integer inputs within K steps, float at the same."),
    click.option("--regions", type=FILE, help="Named regions, in place of the first N samples: TOML."),
    click.option(
        "--top1-above", type=float, metavar="DELTA",
        help="Criterion: top-1 equal wherever the float model's probability of it exceeds DELTA.",
    ),
    click.option("--topk", type=int, metavar="K", help="Criterion: the sets of the K largest outputs are equal."),
    click.option(
        "--ranking", callback=outputs, metavar="I,J",
        help="Criterion: int8 output I is above output J wherever it is in the float model.",
    ),
    click.option(
        "--threshold", multiple=True, metavar="[OUTPUT:]T",
        help="Criterion: both outputs are on the same side of T (>= T, or below); all, or that OUTPUT. Repeatable.",
    ),
    click.option("--time-limit", type=float, metavar="SECONDS", help="Start no regions after it: they are unknown."),
    click.option(
        "--method", type=click.Choice(["zonotope", "quadratic"]), default="zonotope", show_default=True,
        help="quadratic: tighter bounds by quadratic zonotopes; for short sequences, some seconds a region.",
    ),
    click.option("--resume", type=FILE, help="Journal of finished regions: a run that was stopped goes on from there."),
]  # fmt: skip
_RESUME_DEPLOYMENT = click.option(
    "--resume", is_flag=True, help="Go on with the same deployment where it was interrupted."
)


def certification(samples: int, deployment: bool = False) -> Callable[[F], F]:
    """The options of a certification, in the order of --help, with a default number of samples.

    Of a `deployment`, --resume names no journal: it has its own.
    """
    options = [
        click.option("--radius", default="1lsb", show_default=True, help="L-inf radius in input units, or as 2lsb."),
        click.option("--samples", type=int, default=samples, show_default=True, help="Regions: the first N samples."),
        click.option(
            "--region",
            type=click.Choice(["ball", "domain"]),
            default="ball",
            show_default=True,
            help="Balls around samples, or the whole input domain.",
        ),
        click.option("--domain", callback=domain, help="Input range LO,HI of every feature [default: the data's]."),
        click.option("--epsilon", type=float, help="Criterion: |int8 - float| <= EPSILON on every output."),
        click.option(
            "--require-top1",
            type=float,
            help="Criterion: top-1 equality proved on this share of regions, 0 to 1; for several outputs.",
        ),
        click.option(
            "--prove",
            type=click.Choice(["audit", "all", "none"]),
            default="all",
            show_default=True,
            help="Prove all proof obligations, a random sample, or none; a verdict 'proved' needs all.",
        ),
        click.option(
            "--prover",
            type=click.Choice(["auto", "dreal", "icp", "closed-form", "interval"]),
            default="auto",
            show_default=True,
            help="Which solver proves them; auto: intervals in batches, closed forms, branch and bound.",
        ),
        click.option("--evaluations", type=int, default=1000, show_default=True, help="Search budget per region."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option(
            "--jobs", type=int, default=None, help="Processes [default: one per core]; results do not depend on it."
        ),
    ]

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def collected(*args: Any, **kwargs: Any) -> Any:
            own = {"resume": kwargs.pop("resume")} if deployment else {}
            kwargs.setdefault("resume", None)
            more = More(**{field.name: kwargs.pop(field.name) for field in fields(More)})
            return command(*args, more=more, **own, **kwargs)

        result: Any = collected
        for option in reversed([*options, *(_MORE[:-1] if deployment else _MORE), *[_RESUME_DEPLOYMENT] * deployment]):
            result = option(result)
        return result  # type: ignore[no-any-return]

    return decorate


def domain_checks(command: F) -> F:
    """Options of a cross-check against a certificate over the whole domain."""
    drawn = click.option(
        "--drawn", type=click.IntRange(min=0), default=100, show_default=True,
        help="Whole-domain certificates: inputs sent from all of the domain, corners included.",
    )  # fmt: skip
    steps = click.option(
        "--stream-steps", type=click.IntRange(min=1), default=10_000, show_default=True,
        help="Any-length certificates: steps of a stream sent without a reset.",
    )  # fmt: skip
    return drawn(steps(command))


calibration = click.option(
    "--calibration", type=FILE, help="Samples x (N, T, D), y (N,) as .npz [default: MODEL's NAME.calib.npz]."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def verification_options(
    epsilon: float | None,
    require_top1: float | None,
    prove: str,
    prover: str,
    evaluations: int,
    seed: int,
    jobs: int | None,
    more: More,
) -> Options:
    """Options of the verifier from the command line's."""
    from codesign.errors import InputError
    from codesign.verification import Criteria, Options

    if jobs is not None and jobs < 1:
        raise InputError(f"cannot use {jobs} processes; give --jobs N with N at least 1")
    if evaluations < 1:
        raise InputError(f"cannot search with {evaluations} evaluations; give --evaluations N with N at least 1")
    if seed < 0:
        raise InputError("the seed is negative; give --seed N with N at least 0")
    return Options(
        Criteria(epsilon, require_top1, more.top1_above, more.topk, more.ranking, more.threshold),
        seed,
        jobs or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else jobs or os.cpu_count() or 1,
        evaluations,
        prove,  # type: ignore[arg-type]
        prover=prover,
        time_limit=more.time_limit,
        resume=more.resume,
        method=more.method,
    )
