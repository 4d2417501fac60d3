"""The identities behind the relaxations, checked exactly and for all reals.

With a = e^v and b = e^h every expression in sigmoids, tanhs and hyperbolic functions of integer combinations
of v and h is a rational function of a and b, so an identity is one between polynomials with integer
coefficients, which FLINT decides. (An interval method can only show such a difference to be small.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

Operand = Union["Ratio", int]


class Ratio:
    """A quotient of integer polynomials (FLINT's fmpz_mpoly), not reduced."""

    def __init__(self, numerator: Any, denominator: Any) -> None:
        self.numerator = numerator
        self.denominator = denominator

    def _lift(self, other: Operand) -> Ratio:
        if isinstance(other, Ratio):
            return other
        one = self.denominator * 0 + 1
        return Ratio(one * other, one)

    def __add__(self, other: Operand) -> Ratio:
        right = self._lift(other)
        return Ratio(
            self.numerator * right.denominator + right.numerator * self.denominator,
            self.denominator * right.denominator,
        )

    def __mul__(self, other: Operand) -> Ratio:
        right = self._lift(other)
        return Ratio(self.numerator * right.numerator, self.denominator * right.denominator)

    def __truediv__(self, other: Operand) -> Ratio:
        right = self._lift(other)
        return Ratio(self.numerator * right.denominator, self.denominator * right.numerator)

    def __rtruediv__(self, other: int) -> Ratio:
        return self._lift(other) / self

    def __sub__(self, other: Operand) -> Ratio:
        return self + self._lift(other) * -1

    def __rsub__(self, other: int) -> Ratio:
        return self * -1 + other

    def __pow__(self, exponent: int) -> Ratio:
        base = self if exponent >= 0 else 1 / self
        return Ratio(base.numerator ** abs(exponent), base.denominator ** abs(exponent))

    __radd__ = __add__
    __rmul__ = __mul__

    def is_zero(self) -> bool:
        """Whether it vanishes wherever it is defined; ArithmeticError if its denominator is the zero polynomial."""
        if self.denominator == 0:
            raise ArithmeticError("the denominator vanishes identically")
        return bool(self.numerator == 0)


def sigmoid(e: Ratio) -> Ratio:
    """sigmoid(t), given e = exp(t)."""
    return e / (1 + e)


def _slope(e: Ratio) -> Ratio:
    """sigmoid'(t) = e^t / (1 + e^t)^2, by differentiating e^t / (1 + e^t)."""
    return e / (1 + e) ** 2


def _second(e: Ratio) -> Ratio:
    """sigmoid''(t) = e^t (1 - e^t) / (1 + e^t)^3, by differentiating again."""
    return e * (1 - e) / (1 + e) ** 3


def _tanh(e: Ratio) -> Ratio:
    return (e - e**-1) / (e + e**-1)


def _cosh(e: Ratio) -> Ratio:
    return (e + e**-1) / 2


def _sinh(e: Ratio) -> Ratio:
    return (e - e**-1) / 2


@dataclass(frozen=True)
class Identity:
    """`difference`, a function of four independent indeterminates, is zero; `number` as in docs/soundness.md."""

    name: str
    number: int
    statement: str
    difference: Callable[[Ratio, Ratio, Ratio, Ratio], Ratio]


IDENTITIES: tuple[Identity, ...] = (
    Identity(
        "first derivative",
        1,
        "sigmoid' = s (1 - s)",
        lambda a, b, c, d: _slope(a) - sigmoid(a) * (1 - sigmoid(a)),
    ),
    Identity(
        "second derivative",
        1,
        "sigmoid'' = s (1 - s) (1 - 2s)",
        lambda a, b, c, d: _second(a) - sigmoid(a) * (1 - sigmoid(a)) * (1 - 2 * sigmoid(a)),
    ),
    Identity(
        "sinh form",
        2,
        "sigmoid(v + h) - sigmoid(v - h) = sinh h / (cosh v + cosh h)",
        lambda a, b, c, d: sigmoid(a * b) - sigmoid(a / b) - _sinh(b) / (_cosh(a) + _cosh(b)),
    ),
    Identity(
        "product form",
        2,
        "sigmoid(u) - sigmoid(z) = (1 - exp(z - u)) sigmoid(u) sigmoid(-z)",
        lambda a, b, c, d: sigmoid(a) - sigmoid(b) - (1 - b / a) * sigmoid(a) * sigmoid(1 / b),
    ),
    Identity(
        "slope of D",
        2,
        "sigmoid'(v + h) - sigmoid'(v - h) = -sinh h sinh v / (cosh v + cosh h)^2",
        lambda a, b, c, d: _slope(a * b) - _slope(a / b) + _sinh(b) * _sinh(a) / (_cosh(a) + _cosh(b)) ** 2,
    ),
    Identity(
        "oddness",
        3,
        "D(-z, -d) = -D(z, d)",
        lambda a, b, c, d: sigmoid(1 / (a * b)) - sigmoid(1 / a) + sigmoid(a * b) - sigmoid(a),
    ),
    Identity(
        "tanh by sigmoid",
        4,
        "tanh(t) = 2 sigmoid(2t) - 1, so tanh(z + d) - tanh(z) = 2 D(2z, 2d)",
        lambda a, b, c, d: _tanh(a) - (2 * sigmoid(a**2) - 1),
    ),
    Identity(
        "curvature of D",
        5,
        "sigmoid''(v + h) - sigmoid''(v - h) = sinh h (w^2 - C w - 2) / (w + C)^3, w = cosh v, C = cosh h",
        lambda a, b, c, d: (
            _second(a * b)
            - _second(a / b)
            - _sinh(b) * (_cosh(a) ** 2 - _cosh(b) * _cosh(a) - 2) / (_cosh(a) + _cosh(b)) ** 3
        ),
    ),
    Identity(
        "kappa",
        6,
        "sigmoid'(log((1 + s) / (1 - s))) = (1 - s^2) / 4",
        lambda a, b, c, d: _slope((1 + a) / (1 - a)) - (1 - a**2) / 4,
    ),
    Identity(
        "product difference",
        7,
        "(s + p)(c + q) - s c = (s + p/2) q + p (c + q/2)",
        lambda s, c, p, q: (s + p) * (c + q) - s * c - (s + p / 2) * q - p * (c + q / 2),
    ),
)


def holds(identity: Identity) -> bool:
    """Decide one identity exactly."""
    from flint import Ordering, fmpz_mpoly_ctx

    context = fmpz_mpoly_ctx.get(("a", "b", "c", "d"), Ordering.lex)
    one = context.constant(1)
    return identity.difference(*(Ratio(generator, one) for generator in context.gens())).is_zero()
