from collections import Counter
from itertools import islice

import numpy as np
import pytest

from nearkin.data import ClassBalancedSampler, DisjointTripletSampler, NPairSampler

LABELS = np.repeat(np.arange(20), 10)
UNEVEN = np.array([0] * 7 + [1] + [2] * 2 + [3] * 3 + [4] + [5] * 30 + [6] * 4)  # 1 and 4 have one picture


def make(name, labels=LABELS, seed=0):
    return {
        "balanced": lambda: ClassBalancedSampler(labels, classes=6, images=3, seed=seed),
        "npair": lambda: NPairSampler(labels, batch_size=12, seed=seed),
        "triplet": lambda: DisjointTripletSampler(labels, batch_size=18, seed=seed),
    }[name]()


@pytest.mark.parametrize(("classes", "images"), [(6, 3), (20, 10), (2, 2), (5, 4)])
def test_a_batch_is_classes_times_images_class_by_class(classes, images):
    for batch in ClassBalancedSampler(LABELS, classes, images):
        rows = LABELS[batch].reshape(classes, images)
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0])) == classes
        assert len(set(batch)) == classes * images  # enough pictures: none twice


def test_classes_are_dealt_without_replacement_and_anew_each_epoch():
    sampler = ClassBalancedSampler(LABELS, classes=5, images=2)
    epochs = [[LABELS[i] for batch in sampler for i in batch[::2]] for _ in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_all_pictures_come_up_over_the_epochs():
    sampler = ClassBalancedSampler(LABELS, classes=20, images=4)
    assert {i for _ in range(20) for batch in sampler for i in batch} == set(range(200))


def test_pictures_are_repeated_only_where_a_class_has_too_few_and_then_evenly():
    sampler = ClassBalancedSampler(UNEVEN, classes=5, images=5)
    for batch in (batch for _ in range(20) for batch in sampler):
        for row in np.array(batch).reshape(5, 5):
            times, size = Counter(row).values(), int((UNEVEN[row[0]] == UNEVEN).sum())
            assert len(times) == min(size, 5)
            assert max(times) - min(times) <= 1


def test_classes_with_one_picture_are_never_drawn():
    for sampler in (ClassBalancedSampler(UNEVEN, 5, 2), NPairSampler(UNEVEN, 10)):
        drawn = {int(UNEVEN[i]) for _ in range(10) for batch in sampler for i in batch}
        assert drawn == {0, 2, 3, 5, 6}


def test_the_default_takes_all_classes_where_there_are_fewer_than_32():
    assert ClassBalancedSampler(LABELS).classes == 20
    assert ClassBalancedSampler(np.repeat(np.arange(50), 2)).classes == 32


def test_npair_is_anchor_positive_of_distinct_classes():
    for batch in NPairSampler(LABELS, batch_size=12):
        pairs = LABELS[batch].reshape(6, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all()
        assert len(set(pairs[:, 0])) == 6
        assert len(set(batch)) == 12


@pytest.mark.parametrize("labels", [LABELS, UNEVEN, np.array([0, 0, 1, 1, 2, 2])])
def test_triplets_share_no_picture(labels):
    sampler = DisjointTripletSampler(labels, batch_size=6)
    for batch in (batch for _ in range(50) for batch in sampler):
        anchor, positive, negative = labels[batch].reshape(3, 2)
        assert (anchor == positive).all()
        assert (anchor != negative).all()
        assert len(set(batch)) == 6


def test_a_negative_is_given_away_by_an_earlier_triplet_in_need():
    # Beside the pairs of classes 0 and 1, three pictures are left over, and all but one are of class 1: whichever
    # triplet of class 1 comes last needs the one of class 2.
    labels = np.array([0, 0, 1, 1, 1, 1, 2])
    for seed in range(200):
        batch = next(iter(DisjointTripletSampler(labels, batch_size=6, seed=seed)))
        anchor, _, negative = labels[batch].reshape(3, 2)
        assert (anchor != negative).all()


@pytest.mark.parametrize("name", ["balanced", "npair", "triplet"])
def test_the_seed_decides(name):
    first, again, other = (list(make(name, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", ["balanced", "npair", "triplet"])
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 7])
def test_resumes_in_the_middle_of_an_epoch(name, stop):
    def endless(sampler):
        while True:
            yield from sampler

    whole = list(islice(endless(make(name)), 12))
    stopped = make(name)
    before = list(islice(endless(stopped), stop))
    resumed = make(name)
    resumed.load_state_dict(stopped.state_dict())
    assert before + list(islice(endless(resumed), 12 - stop)) == whole


def test_works_as_the_batch_sampler_of_a_data_loader():
    from torch.utils.data import DataLoader

    sampler = ClassBalancedSampler(LABELS, classes=4, images=2)
    assert len(list(DataLoader(LABELS, batch_sampler=sampler))) == len(sampler) == 5


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda: ClassBalancedSampler(LABELS, classes=21), "asks for 21 classes, but only 20"),
        (lambda: ClassBalancedSampler(UNEVEN, classes=6), "asks for 6 classes, but only 5"),
        (lambda: ClassBalancedSampler([0, 0, 0, 1]), "asks for 2 classes, but only 1"),
        (lambda: ClassBalancedSampler(LABELS, images=1), "images per class must be at least 2, got 1"),
        (lambda: ClassBalancedSampler(LABELS, classes=1), "classes per batch must be at least 2, got 1"),
        (lambda: NPairSampler(LABELS, batch_size=42), "asks for 21 classes, but only 20"),
        (lambda: NPairSampler(LABELS, batch_size=7), "even and at least 4, got 7"),
        (lambda: DisjointTripletSampler(LABELS, batch_size=16), "multiple of 3, got 16"),
        (lambda: DisjointTripletSampler(LABELS, batch_size=63), "asks for 21 classes, but only 20"),
        (lambda: DisjointTripletSampler([0, 0, 1, 1], batch_size=6), "4 training pictures do not always leave them"),
    ],
)
def test_impossible_batches_say_what_was_asked_and_what_there_is(sampler, message):
    with pytest.raises(ValueError, match=message):
        sampler()
