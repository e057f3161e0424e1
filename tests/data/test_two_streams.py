from collections import Counter
from itertools import islice
from math import gcd

import numpy as np
import pytest

from nearkin.data import TwoStreamSampler
from nearkin.data.two_streams import neat_batches

LABELS = np.repeat(np.arange(20), 10)
UNEVEN = np.array([0] * 7 + [1] + [2] * 2 + [3] * 3 + [4] + [5] * 30 + [6] * 4 + [7] * 9)  # 1 and 4 have one picture


def endless(sampler):
    while True:
        yield from sampler


def halves(batch):
    return tuple(batch[: len(batch) // 2]), tuple(batch[len(batch) // 2 :])


@pytest.mark.parametrize(("classes", "images"), [(6, 3), (20, 5), (2, 2), (5, 4), (10, 10)])
def test_a_batch_is_classes_times_images_and_as_many_others(classes, images):
    for batch in islice(endless(TwoStreamSampler(LABELS, classes, images)), 40):
        neat, shuffled = halves(batch)
        rows = LABELS[list(neat)].reshape(classes, images)
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0])) == classes
        assert len(shuffled) == classes * images
        assert len(set(batch)) == 2 * classes * images  # no picture twice: none is its own positive


@pytest.mark.parametrize(
    ("labels", "classes", "images"),
    [
        (LABELS, 6, 3),  # 10 and 12 batches: one more is shuffled
        (LABELS, 4, 5),  # 10 and 10
        (LABELS, 10, 10),  # 2 and 2
        (LABELS[:120], 3, 4),  # 8 and 10
        (np.repeat(np.arange(18), 10), 6, 5),  # 6 and 6
        (np.repeat(np.arange(30), 4), 5, 4),  # 6 and 6
        (UNEVEN, 2, 3),
        (UNEVEN, 4, 2),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_pair_of_batches_repeats_before_the_product_of_the_lengths(labels, classes, images, seed):
    sampler = TwoStreamSampler(labels, classes, images, seed=seed)
    neat_length, shuffled_length = len(sampler), sampler.shuffled_batches
    assert gcd(neat_length, shuffled_length) == 1

    cycle = neat_length * shuffled_length
    seen = list(islice(endless(sampler), 2 * cycle))
    assert len({tuple(batch) for batch in seen[:cycle]}) == cycle  # a batch that never came before is a new pair
    assert seen[cycle:] == seen[:cycle]
    met = Counter(halves(batch)[0] for batch in seen[:cycle])
    assert len(met) == neat_length
    assert set(met.values()) == {shuffled_length}


def test_each_pool_is_cut_once_and_cycled_at_its_own_length():
    sampler = TwoStreamSampler(LABELS, classes=4, images=3)
    neat_length, shuffled_length = len(sampler), sampler.shuffled_batches
    assert neat_length != shuffled_length
    seen = [halves(batch) for batch in islice(endless(sampler), 3 * neat_length)]
    for step, (neat, shuffled) in enumerate(seen):
        assert neat == seen[step % neat_length][0]
        # But for the few that were passed over, it is the same shuffled batch.
        first_time, there = seen[step % shuffled_length]
        stay = [i for i in there if i not in neat]
        assert [i for i in shuffled if i not in first_time][: len(stay)] == [i for i in stay if i in shuffled]
        assert len(stay) >= 6


def test_a_picture_of_the_neat_half_is_passed_over_in_the_shuffled_one():
    sampler = TwoStreamSampler(LABELS, classes=4, images=5)
    pool = list(sampler.order)
    assert sorted(pool) == list(range(200))
    passed = 0
    for step, batch in enumerate(islice(endless(sampler), len(sampler) * sampler.shuffled_batches)):
        half, shuffled = halves(batch)
        start = step % sampler.shuffled_batches * 200 // sampler.shuffled_batches
        expected = [i for i in (pool + pool)[start : start + 40] if i not in half][:20]
        assert list(shuffled) == expected
        passed += sum(i in half for i in pool[start : start + 20])
    assert passed > 0


def test_the_neat_pool_holds_a_picture_once():
    neat = [i for batch in TwoStreamSampler(LABELS, classes=4, images=5) for i in halves(batch)[0]]
    assert sorted(neat) == list(range(200))


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:187], UNEVEN])
def test_no_picture_stays_out_of_both_halves(labels, classes):
    sampler = TwoStreamSampler(labels, classes=classes, images=2)
    cycle = islice(endless(sampler), len(sampler) * sampler.shuffled_batches)
    assert {i for batch in cycle for i in batch} == set(range(len(labels)))


def test_classes_with_too_few_pictures_are_in_the_shuffled_half_alone():
    sampler = TwoStreamSampler(UNEVEN, classes=3, images=4)
    batches = list(islice(endless(sampler), len(sampler) * sampler.shuffled_batches))
    neat, shuffled = zip(*map(halves, batches), strict=True)
    assert {int(UNEVEN[i]) for half in neat for i in half} == {0, 5, 6, 7}
    assert {1, 2, 3, 4} <= {int(UNEVEN[i]) for half in shuffled for i in half}


@pytest.mark.parametrize("groups", [[3, 3, 3, 3], [5, 1, 1, 1], [9, 3, 2, 1, 1], [4, 4, 1], [1, 1, 1, 1, 1], [7, 7, 7]])
@pytest.mark.parametrize("classes", [2, 3])
def test_as_many_neat_batches_are_dealt_as_can_be(groups, classes):
    members, start = [], 0
    for count in groups:
        members.append(np.arange(start, start + 2 * count + 1))  # one picture too few for another group
        start += 2 * count + 1
    # A class fills at most one place of each batch.
    most = max(t for t in range(sum(groups) + 1) if sum(min(g, t) for g in groups) >= classes * t)
    for seed in range(5):
        dealt = neat_batches(members, classes, 2, np.random.default_rng(seed))
        assert dealt.shape == (most, 2 * classes)
        assert len(np.unique(dealt)) == dealt.size


def test_the_seed_decides():
    first, again, other = (list(TwoStreamSampler(LABELS, 4, 3, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("stop", [0, 1, 2, 15, 16, 17, 40])
def test_resumes_in_the_middle_of_an_epoch(stop):
    def make():
        return TwoStreamSampler(LABELS, classes=4, images=3)

    whole = list(islice(endless(make()), 60))
    stopped = make()
    before = list(islice(endless(stopped), stop))
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    assert before + list(islice(endless(resumed), 60 - stop)) == whole


def test_works_as_the_batch_sampler_of_a_data_loader():
    from torch.utils.data import DataLoader

    sampler = TwoStreamSampler(LABELS, classes=4, images=5)
    assert len(list(DataLoader(LABELS, batch_sampler=sampler))) == len(sampler) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LABELS, 21), "asks for 21 classes of 5 pictures, but only 20 training classes have 5 pictures or more"),
        ((LABELS, 2, 11), "asks for 2 classes of 11 pictures, but only 0 training classes have 11"),
        ((UNEVEN, 5, 4), "asks for 5 classes of 4 pictures, but only 4 training classes have 4"),
        ((LABELS, 20, 6), "two halves of 20 x 6 take 240 different pictures, but there are only 200 training pictures"),
        ((LABELS, 1), "classes per batch must be at least 2, got 1"),
        ((LABELS, 4, 1), "images per class must be at least 2, got 1"),
    ],
)
def test_impossible_batches_say_what_was_asked_and_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwoStreamSampler(*arguments)
