"""The checker's arithmetic against exact rational arithmetic, and its layers against exact simulation."""

from fractions import Fraction

import exact_layers
import numpy as np
import pytest
from exact_forms import BATCH, Walk, boxes, squares, walk

from codesign.checker.forms import Box, Symbols, affine


def test_intervals_hold_what_they_stand_for():
    boxes(range(100, 160))


@pytest.mark.parametrize("second_order", [False, True])
def test_forms_hold_their_values_whatever_is_done_with_them(second_order):
    """Random operations, narrowed boxes in between, with noise symbols that are known exactly."""
    walk(range(1000 + second_order, 1160, 2), steps=20)


def test_walks_meet_every_operation_with_products_and_narrow_boxes():
    seen, narrow, products = set(), 0, 0
    for seed in range(1, 21, 2):
        path = Walk(seed, second_order=True)
        for _ in range(25):
            seen.add(path.step())
            form, _ = path.pool[-1]
            assert form.lo.shape[0] == BATCH
            narrow += bool((form.hi - form.lo < 1.9 * form.radius).any())
            products += bool(form.products.any())
    assert seen == {"affine", "times", "product", "narrow", "reset", "fold", "parts", "read"}
    assert narrow > 20
    assert products > 20


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_ranges_of_forms_with_products_hold_all_corners(inputs):
    squares(range(12), inputs, 3 - inputs + 1)


def test_fixed_inputs_have_no_symbol_and_no_input_at_all_is_possible():
    symbols = Symbols(second_order=True)
    form = symbols.of_input(Box(np.array([[1.0, -2.0]]), np.array([[1.0, 3.0]])))
    assert form.generators.shape == (1, 2, 1)
    assert symbols.spans == [(0, 1)]
    assert (form.lo <= [[1.0, -2.0]]).all()
    assert (form.hi >= [[1.0, 3.0]]).all()
    none = Symbols(second_order=True)
    form = none.of_input(Box(np.ones((1, 2)), np.ones((1, 2))))
    assert (form.generators.shape, none.spans) == ((1, 2, 0), [])
    ones = Box(np.ones((1, 1)), np.ones((1, 1)))
    one = affine([ones, (np.array([[2.0]]), form.part(slice(0, 1)))], none, paired=True)
    assert one.lo[0, 0] <= 3 <= one.hi[0, 0]
    assert none.spans == []


def test_a_long_sum_of_one_sign_is_within_its_stated_rounding():
    """Where roundings add up: a thousand equal terms whose sum is never exact."""
    tenth = np.full((1, 1), 0.1)
    form = affine([Box(tenth, tenth)])
    for _ in range(999):
        form = affine([Box(tenth, tenth), (1.0, form)])
    total = 1000 * Fraction(0.1)
    assert abs(Fraction(float(form.center[0, 0])) - total) > 0
    assert abs(Fraction(float(form.center[0, 0])) - total) <= Fraction(float(form.error[0, 0]))
    assert form.hi[0, 0] - form.lo[0, 0] < 1e-9


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_layers_hold_what_exact_simulation_gives(seed):
    for settings in exact_layers.LSTMS:
        exact_layers.lstm(**settings, seed=seed)
    for relu in (False, True):
        exact_layers.dense(relu, 2.0, 0.1, seed=seed)
    exact_layers.multipliers(seed)
    for classes, dtype in ((2, "int16"), (5, "int8")):
        exact_layers.softmax(classes, dtype, seed)


def test_the_comparison_system_holds_what_exact_simulation_gives():
    for settings in exact_layers.DOMAINS:
        exact_layers.domain(**settings, batch=6, seed=1)


def test_a_reshape_that_joins_steps_is_refused_for_any_number_of_them():
    from codesign.checker import Invalid
    from codesign.checker.lstm import Pair
    from codesign.checker.replay import forward
    from codesign.quantization.align import ReshapeStage

    box = Box(np.zeros((1, 3)), np.ones((1, 3)))
    rows = [Pair(affine([box]), affine([box])) for _ in range(2)]
    for count, shape, widths in ((2, (6,), [6]), (2, (3, 2), [2, 2, 2]), (1, (2, 3), [3]), (1, (3, 1), [1, 1, 1])):
        found, _ = forward([[ReshapeStage(shape)]], rows[:count], None, Symbols())
        assert [row.value.lo.shape[1] for row in found] == widths
    for shape in ((6,), (3, 2), (1, 6)):
        with pytest.raises(Invalid, match="reshape"):
            forward([[ReshapeStage(shape)]], rows[:1], None, Symbols())
