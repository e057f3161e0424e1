import inspect
import itertools
import math

import numpy as np
import pytest
from torch import nn

from nearkin import config, losses, tuning
from nearkin.errors import InputError
from nearkin.tuning import Range, Trial, best, own_values, propose, with_values

EXPORTED = {name: getattr(losses, name) for name in losses.__all__ if inspect.isclass(getattr(losses, name))}


def settings(tmp_path, *arguments):
    return config.read(["--data", str(tmp_path), *arguments]).config


def test_every_loss_has_its_ranges_and_every_range_its_loss():
    assert {name for name, each in EXPORTED.items() if issubclass(each, nn.Module)} == tuning.LOSSES.keys()


@pytest.mark.parametrize("name", sorted(tuning.LOSSES))
def test_ranges_are_of_arguments_that_the_loss_takes(name):
    ranges = tuning.LOSSES[name]
    arguments = inspect.signature(EXPORTED[name]).parameters
    assert ranges.keys() <= arguments.keys()
    for argument, values in ranges.items():
        assert isinstance(arguments[argument].default, float), f"{name}.{argument} is searched as a number"
        assert values.low < values.high
        assert values.relative or values.low <= arguments[argument].default <= values.high
        assert not values.log or values.low > 0


@pytest.mark.parametrize("name", sorted(tuning.LOSSES))
def test_every_corner_of_the_ranges_is_a_loss(name):
    parameters = inspect.signature(EXPORTED[name]).parameters.values()
    required = {each.name: 8 for each in parameters if each.default is each.empty}  # num_classes, embedding_size
    if "loss" in required:
        required["loss"] = losses.ContrastiveLoss()
    defaults = {each.name: each.default for each in parameters}
    ranges = {key: each.around(defaults[key]) for key, each in tuning.LOSSES[name].items()}
    for corner in itertools.product(*((each.low, each.high) for each in ranges.values())):
        EXPORTED[name](**required, **dict(zip(ranges, corner, strict=True)))


def test_own_values_are_the_learning_rate_and_the_losss_arguments(tmp_path):
    tree = settings(tmp_path, "--loss", "RankedListLoss", "--loss.alpha", "1.1", "--optimizer.lr", "2e-4")
    assert own_values(tree) == {"optimizer.lr": 2e-4, "loss.alpha": 1.1, "loss.margin": 0.4, "loss.temperature": 10.0}
    assert own_values(settings(tmp_path, "--loss", "torch.nn.Identity")) == {"optimizer.lr": 1e-3}


def test_values_go_where_they_came_from(tmp_path):
    tree = settings(tmp_path, "--loss", "AngularLoss")
    before = own_values(tree)
    changed = with_values(tree, {"optimizer.lr": 0.5, "loss.alpha": 41.0})
    assert own_values(changed) == {"optimizer.lr": 0.5, "loss.alpha": 41.0}
    assert own_values(tree) == before
    assert with_values(changed, before) == tree


def test_without_a_learning_rate_there_is_nothing_to_search(tmp_path):
    tree = settings(tmp_path)
    tree["optimizer"]["init_args"]["lr"] = None
    with pytest.raises(InputError, match=r"searches the learning rate, and optimizer.lr is None"):
        own_values(tree)


@pytest.mark.parametrize(
    ("values", "own", "expected"),
    [
        (Range(0.1, 10, log=True, relative=True), 0.003, Range(0.0003, 0.03, log=True)),
        (Range(0.5, 2, log=True, relative=True), 30, Range(15, 60, log=True)),
        (Range(0.3, 1.8), 1.0, Range(0.3, 1.8)),
        (Range(0.3, 1.8), 0.1, Range(0.1, 1.8)),
        (Range(0.3, 1.8), 2.5, Range(0.3, 2.5)),
        (Range(0.2, 20, log=True), 0.0, Range(0.0, 20)),
    ],
)
def test_ranges_hold_the_configurations_own_value(values, own, expected):
    found = values.around(own)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.log == expected.log
    assert found.low <= own <= found.high


def score(values):
    """Best at a rate of 0.0005 and a margin of 0.9, in [0, 1]."""
    return math.exp(-((math.log10(values["optimizer.lr"]) + 3.3) ** 2) - (values["loss.margin"] - 0.9) ** 2)


def searched(tree, count, failing=lambda values: False):
    trials = []
    for _ in range(count):
        values = propose(tree, trials)
        trials.append(Trial(values, None, "NaN") if failing(values) else Trial(values, score(values)))
    return trials


@pytest.fixture
def tree(tmp_path):
    return settings(tmp_path, "--loss", "ContrastiveLoss", "--optimizer.lr", "0.003")


def test_the_first_trial_is_the_configuration_as_it_is(tree):
    assert propose(tree, []) == own_values(tree) == {"optimizer.lr": 0.003, "loss.margin": 1.0}


def test_trials_keep_to_the_ranges_and_to_three_digits(tree):
    trials = searched(tree, 30)
    for trial in trials:
        assert 0.0003 <= trial.values["optimizer.lr"] <= 0.03
        assert 0.3 <= trial.values["loss.margin"] <= 1.8
        assert all(value == float(f"{value:.3g}") for value in trial.values.values())
    assert len({tuple(trial.values.values()) for trial in trials}) > 25
    rates = np.log10([trial.values["optimizer.lr"] for trial in trials])
    assert rates.min() < -3.2
    assert rates.max() > -1.9


def test_a_trial_depends_on_those_before_it_and_on_nothing_else(tree):
    trials = searched(tree, 15)
    np.random.seed(1)
    for number in (1, 4, 12, 14):
        assert propose(tree, trials[:number]) == trials[number].values
    better = [Trial(trial.values, trial.values["loss.margin"] / 2) for trial in trials[:14]]
    assert propose(tree, better) != trials[14].values


def test_the_search_finds_what_is_best(tree):
    trials = searched(tree, 40)
    found = best(trials)
    assert found.score == max(trial.score for trial in trials)
    assert found.score > 0.95 > score(own_values(tree))


def test_it_keeps_away_from_where_runs_come_to_nothing(tree):
    trials = searched(tree, 40, failing=lambda values: values["optimizer.lr"] > 0.002)
    early, late = ([trial.failure is not None for trial in part] for part in (trials[:10], trials[20:]))
    assert np.mean(late) < np.mean(early) / 2
    assert best(trials).values["optimizer.lr"] <= 0.002


def test_best_is_the_first_of_equals_and_none_of_none():
    trials = [Trial({"a": 1}, None, "NaN"), Trial({"a": 2}, 0.5), Trial({"a": 3}, 0.5), Trial({"a": 4}, 0.1)]
    assert best(trials) is trials[1]
    assert best(trials[:1]) is None


def test_without_optuna_the_search_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'nearkin\[search\]'"):
        tuning.check_installed()
