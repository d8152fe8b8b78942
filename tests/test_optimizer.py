"""Muon's steps against their definition, and the rate of each step."""

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarcnn.config import FIELDS, Settings
from cifarcnn.training import optimizer
from cifarcnn.training.optimizer import explain_extension, learning_rates


def step(variable: np.ndarray, gradient: np.ndarray, rate: float = 0.1, momentum: float = 0.6) -> np.ndarray:
    """Return a variable after one step of Muon."""
    muon = optimizer.Muon(momentum, learning_rate=rate)
    weights = keras.Variable(variable)
    muon.build([weights])
    muon.apply([keras.ops.convert_to_tensor(gradient)], [weights])
    return np.asarray(weights)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([(3, 3, 4, 64), (3, 3, 24, 32), (3, 3, 16, 16), (1, 1, 3, 9)]), st.integers(0, 99))
def test_a_kernel_moves_by_an_almost_orthogonal_matrix(shape: tuple[int, ...], seed: int) -> None:
    """All singular values of the step lie near one, whatever the size of the gradient."""
    random = np.random.default_rng(seed)
    kernel = random.normal(size=shape).astype(np.float32)
    gradient = (1e-3 * random.normal(size=shape)).astype(np.float32)
    scaled = kernel * np.sqrt(shape[-1]) / np.linalg.norm(kernel)
    moved = (scaled - step(kernel, gradient)) / 0.1
    values = np.linalg.svd(moved.reshape(-1, shape[-1]), compute_uv=False)
    # Three iterations bring what was within a factor of ten of the largest near one; random matrices are.
    assert values.max() < 1.4
    assert np.median(values) > 0.5
    # It goes downhill.
    assert (moved * gradient).sum() > 0


def test_the_step_keeps_the_singular_vectors_of_the_gradient() -> None:
    """For a gradient of known singular vectors the step is the product of these vectors."""
    random = np.random.default_rng(0)
    left, _ = np.linalg.qr(random.normal(size=(36, 8)))
    right, _ = np.linalg.qr(random.normal(size=(8, 8)))
    gradient = ((left * np.linspace(1, 2, 8)) @ right).reshape(3, 3, 4, 8).astype(np.float32)
    kernel = random.normal(size=(3, 3, 4, 8)).astype(np.float32)
    scaled = kernel * np.sqrt(8) / np.linalg.norm(kernel)
    moved = ((scaled - step(kernel, gradient)) / 0.1).reshape(36, 8)
    inner = left.T @ moved @ right.T
    assert np.allclose(inner, np.diag(np.diag(inner)), atol=0.01)
    assert (np.diag(inner) > 0.6).all()


@pytest.mark.parametrize("shape", [(1, 1, 1024, 64), (3, 3, 64, 32), (1, 1, 300, 7)])
def test_the_short_way_for_tall_kernels_leads_where_the_iteration_does(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same step, but for rounding, also for singular values far apart."""
    random = np.random.default_rng(0)
    kernel = random.normal(size=shape).astype(np.float32)
    gradient = (random.normal(size=shape) * np.geomspace(1e-3, 1, shape[-1])).astype(np.float32)
    taken: list[int] = []
    short_way = optimizer.Muon._orthogonal_of_tall

    def noted(self: optimizer.Muon, matrix: Any) -> Any:
        taken.append(1)
        return short_way(self, matrix)

    monkeypatch.setattr(optimizer.Muon, "_orthogonal_of_tall", noted)
    short = step(kernel, gradient)
    assert taken == [1]
    monkeypatch.setattr(optimizer.Muon, "TALL", np.inf)
    assert np.allclose(short, step(kernel, gradient), atol=1e-5)
    assert taken == [1]


def test_momentum_adds_the_steps_before() -> None:
    """Two opposite gradients, the second a tenth of the first: with momentum the first still rules."""
    random = np.random.default_rng(0)
    kernel, gradient = random.normal(size=(2, 3, 3, 4, 8)).astype(np.float32)
    for momentum, sign in ((0.0, -1), (0.9, 1)):
        muon = optimizer.Muon(momentum, learning_rate=1e-3)
        weights = keras.Variable(kernel)
        muon.build([weights])
        muon.apply([keras.ops.convert_to_tensor(gradient)], [weights])
        before = np.asarray(weights)
        muon.apply([keras.ops.convert_to_tensor(-0.1 * gradient)], [weights])
        scaled = before * np.sqrt(8) / np.linalg.norm(before)
        assert np.sign(((scaled - np.asarray(weights)) * gradient).sum()) == sign


def test_the_second_step_is_along_the_gradient_and_the_momentum_after_it() -> None:
    """Nesterov's momentum: the gradient counts once by itself and once in the velocity that follows it."""
    random = np.random.default_rng(0)
    kernel, first, second = random.normal(size=(3, 3, 3, 4, 8)).astype(np.float32)
    muon = optimizer.Muon(0.6, learning_rate=0.1)
    weights = keras.Variable(kernel)
    muon.build([weights])
    muon.apply([keras.ops.convert_to_tensor(first)], [weights])
    before = np.asarray(weights)
    muon.apply([keras.ops.convert_to_tensor(second)], [weights])
    moved = (before * np.sqrt(8) / np.linalg.norm(before) - np.asarray(weights)) / 0.1
    along = second + 0.6 * (second + 0.6 * first)
    left, values, right = np.linalg.svd(along.reshape(36, 8), full_matrices=False)
    values /= np.linalg.norm(values)
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(moved.reshape(36, 8), left * values @ right, atol=1e-4)


def test_each_step_goes_at_its_rate_in_the_table() -> None:
    """The first step at the first rate; steps beyond the table at its last."""
    rates = np.array([0.5, 0.25, 1.0, 0.125], np.float32)
    table = optimizer.RateTable(rates)
    assert [float(table(step)) for step in (0, 1, 2, 3, 4, 1000)] == [0.5, 0.25, 1.0, 0.125, 0.125, 0.125]
    descent = optimizer.make(Settings(optimizer="sgd", momentum=0.0, weight_decay=0.0), rates)
    weight = keras.Variable(np.zeros(1, np.float32))
    places = [0.0]
    for _ in range(6):
        descent.apply([keras.ops.ones(1)], [weight])
        places.append(float(weight[0]))
    assert (-np.diff(places)).tolist() == [*rates, 0.125, 0.125]


@pytest.mark.parametrize(("shape", "share"), [((7,), 1.0), ((64, 10), 0.25)])
def test_other_variables_move_by_adam(shape: tuple[int, ...], share: float) -> None:
    """The first step of Adam is the rate itself, in the direction of the gradient."""
    variable = np.zeros(shape, np.float32)
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = -0.1 * optimizer.Muon.REST * share * np.sign(gradient)
    assert np.allclose(step(variable, gradient), expected, rtol=1e-4)


def test_no_state_is_kept_that_is_not_used() -> None:
    """A kernel of Muon's has a momentum; what is Adam's has two moments; besides, the step and its rate."""
    shapes = ((3, 3, 4, 8), (8,), (30, 20), (20, 10))
    weights = [keras.Variable(np.ones(shape, np.float32)) for shape in shapes]
    muon = optimizer.make(Settings(optimizer="muon"), np.ones(3, np.float32))
    muon.build(weights)
    muon.apply([keras.ops.ones(shape) for shape in shapes], weights)
    state = [tuple(variable.shape) for variable in muon.variables]
    assert sorted(state) == sorted([(), *shapes, (8,), (20, 10)])
    assert all(np.asarray(variable).any() for variable in muon.variables)


def test_hidden_dense_kernels_move_by_muon_and_the_last_by_adam() -> None:
    """Of two dense kernels and a bias between, only the first makes an orthogonal step."""
    random = np.random.default_rng(0)
    shapes = ((30, 20), (20,), (20, 10))
    weights = [keras.Variable(random.normal(size=shape).astype(np.float32)) for shape in shapes]
    before = [np.asarray(variable) for variable in weights]
    gradients = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    muon = optimizer.Muon(0.6, learning_rate=0.1)
    muon.build(weights)
    muon.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], weights)
    hidden, bias, last = (np.asarray(variable) for variable in weights)
    scaled = before[0] * np.sqrt(20) / np.linalg.norm(before[0])
    values = np.linalg.svd((scaled - hidden) / 0.1, compute_uv=False)
    assert values.max() < 1.4
    assert np.median(values) > 0.5
    rest = 0.1 * optimizer.Muon.REST
    assert np.allclose(bias - before[1], -rest * np.sign(gradients[1]), atol=1e-6)
    assert np.allclose(last - before[2], -rest * 16 / 20 * np.sign(gradients[2]), atol=1e-6)


NAMES = FIELDS["schedule"].metadata["choices"]


def rates(steps: int = 10, **changes: Any) -> np.ndarray:
    """The table of these settings."""
    return learning_rates(Settings(**{"epochs": 4, "learning_rate": 0.5, "warmup": 0.0, **changes}), steps)


@given(
    st.sampled_from(NAMES),
    st.integers(1, 30),
    st.integers(1, 50),
    st.floats(0, 0.9),
    st.floats(1e-6, 10),
    st.floats(0, 0.01),
)
def test_every_rate_is_between_zero_and_the_peak(
    schedule: str, epochs: int, steps: int, warmup: float, peak: float, decay: float
) -> None:
    """One float32 for each step, whatever the settings."""
    table = rates(steps, epochs=epochs, schedule=schedule, warmup=warmup, learning_rate=peak, decay=decay)
    assert table.shape == (epochs * steps,)
    assert table.dtype == np.float32
    assert (table >= 0).all()
    assert (table <= np.float32(peak) * (1 + 1e-6)).all()
    assert table.max() > 0


@pytest.mark.parametrize("schedule", [name for name in NAMES if name != "inverse-time"])
@pytest.mark.parametrize(("warmup", "rising"), [(0.25, 10), (0.26, 10), (0.29, 12)])
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule: str, warmup: float, rising: int) -> None:
    """A quarter of 40 steps: 0.05, 0.1, ... 0.5; what is no whole number of steps is rounded."""
    table = rates(schedule=schedule, warmup=warmup)
    assert table[:rising] == pytest.approx(np.arange(1, rising + 1) * 0.5 / rising)
    assert table[rising] <= 0.5


def test_shapes() -> None:
    """The values at known places."""
    assert set(rates(schedule="constant")) == {0.5}
    step = rates(schedule="step")
    assert step[[0, 19, 20, 29, 30, 39]] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    cosine = rates(schedule="cosine")
    assert cosine[[0, 20]] == pytest.approx([0.5, 0.25])
    assert (np.diff(cosine) < 0).all()
    cycle = rates(schedule="one-cycle", warmup=0.25)
    assert cycle.argmax() in (9, 10)
    assert np.diff(cycle[10:]) == pytest.approx(-0.5 / 30, rel=1e-5)
    inverse = rates(schedule="inverse-time", decay=0.1)
    assert inverse[[0, 10, 39]] == pytest.approx([0.5, 0.25, 0.5 / 4.9])


def test_extension_is_explained_by_the_tables() -> None:
    """What has no end goes on; what is laid out over all epochs changes, with both rates named."""
    for schedule, same in (
        ("constant", True),
        ("inverse-time", True),
        ("cosine", False),
        ("one-cycle", False),
    ):
        before = Settings(epochs=2, schedule=schedule, warmup=0.0, learning_rate=0.5)
        after = Settings(epochs=4, schedule=schedule, warmup=0.0, learning_rate=0.5)
        text = explain_extension(before, after, 10, 20)
        assert text.startswith(f"4 epochs instead of 2: the {schedule} schedule ")
        assert ("the result is that of 4 epochs from the start" in text) is same
        assert ("goes on at the rate 0.25 after" in text) is not same


def test_an_extension_that_spreads_the_resolutions_anew_is_told() -> None:
    """At the same rates, epochs on other resolutions make another result, as soon as they are begun."""
    before, after = (
        Settings(arch="whiten6-tiny", epochs=epochs, schedule="constant", warmup=0.0, resolutions="20,32")
        for epochs in (2, 4)
    )
    for done in (11, 15, 20):
        assert explain_extension(before, after, 10, done).endswith(
            "but the resolutions 20,32 are spread anew; the result is not that of 4 epochs from the start"
        )
    for done in (5, 10):
        assert "is that of 4 epochs" in explain_extension(before, after, 10, done)
