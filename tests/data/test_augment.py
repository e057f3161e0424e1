import pytest
import torch

from nearkin.data import Augmentation, centre_crop
from nearkin.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=16, side=20):
    return torch.randint(256, (n, 3, side, side), generator=generator(), dtype=torch.uint8)


def windows(image, size):
    """Every square of `size` in a picture, as a set of bytes."""
    places = range(image.shape[1] - size + 1)
    return {image[:, y : y + size, x : x + size].numpy().tobytes() for y in places for x in places}


def test_crops_at_random_places_and_mirrors_some():
    images = batch(64, 12)
    views = Augmentation(mirror=True)(images, 8, generator())
    straight = [view.numpy().tobytes() in windows(image, 8) for image, view in zip(images, views, strict=True)]
    flipped = [view.flip(2).numpy().tobytes() in windows(image, 8) for image, view in zip(images, views, strict=True)]
    assert all(a != b for a, b in zip(straight, flipped, strict=True))
    assert 20 < sum(flipped) < 44
    assert all(
        view.numpy().tobytes() in windows(image, 8)
        for image, view in zip(images, Augmentation(mirror=False)(images, 8, generator()), strict=True)
    )


def test_nothing_varied_changes_nothing():
    images = batch()
    assert torch.equal(Augmentation(mirror=False)(images, 20, generator()), images)


@pytest.mark.parametrize("change", [{"rotate": 10.0}, {"zoom": 0.2}, {"shift": 0.1}, {"contrast": 0.3}])
def test_every_change_is_drawn_anew_and_repeatable(change):
    images = batch(1).expand(8, -1, -1, -1)
    augment = Augmentation(mirror=False, **change)
    views = augment(images, 20, generator(1))
    assert views.dtype == torch.uint8
    assert len({view.numpy().tobytes() for view in views}) == 8
    assert torch.equal(views, augment(images, 20, generator(1)))
    assert not torch.equal(views, augment(images, 20, generator(2)))


def test_the_warp_moves_a_dot_no_further_than_asked():
    images = torch.zeros(200, 3, 41, 41, dtype=torch.uint8)
    images[:, :, 19:22, 19:22] = 255
    views = Augmentation(mirror=False, shift=0.1)(images, 41, generator()).float()[:, 0]
    where = torch.arange(41.0)
    total = views.sum(dim=(1, 2))
    down = (views.sum(dim=2) * where).sum(dim=1) / total - 20
    right = (views.sum(dim=1) * where).sum(dim=1) / total - 20
    for moved in (down, right):
        assert moved.abs().max() <= 4.2  # a tenth of 41 pixels
        assert moved.abs().max() > 3.5
        assert moved.mean().abs() < 0.6


def test_rotation_keeps_the_centre_and_turns_by_the_angle():
    images = torch.zeros(100, 3, 41, 41, dtype=torch.uint8)
    images[:, :, 20, 35] = 255  # right of the centre
    views = Augmentation(mirror=False, rotate=30)(images, 41, generator()).float()[:, 0]
    weight = views / views.sum(dim=(1, 2), keepdim=True)
    where = torch.arange(41.0) - 20
    down, right = (weight.sum(dim=2) * where).sum(dim=1), (weight.sum(dim=1) * where).sum(dim=1)
    assert torch.allclose((down**2 + right**2).sqrt(), torch.full((100,), 15.0), atol=0.6)
    angle = torch.atan2(down, right).rad2deg()
    assert angle.abs().max() < 32
    assert angle.max() > 25
    assert angle.min() < -25


@pytest.mark.parametrize("change", [{"rotate": -1}, {"rotate": 181}, {"zoom": 5}, {"shift": 2}, {"contrast": 1.5}])
def test_values_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=f"augment.{next(iter(change))} must be in"):
        Augmentation(**change)


def test_centre_crop():
    images = batch(2, 9)
    assert torch.equal(centre_crop(images, 5), images[:, :, 2:7, 2:7])
    assert torch.equal(centre_crop(images, 9), images)
