import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from support import outcome

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


@examples(300)
@given(data=st.data())
def test_any_batch_is_cropped_or_refused_in_one_line(data):
    share = st.one_of(st.sampled_from([0.0, 0.3, 1.0, -0.1, 1.1, 1e300]), st.floats())
    asked = {"rotate": 100 * data.draw(share), "zoom": data.draw(share), "shift": data.draw(share)}
    asked |= {"contrast": data.draw(share), "mirror": data.draw(st.booleans())}
    augment, line = outcome(InputError, Augmentation, **asked)
    limits = {"rotate": 180, "zoom": 4, "shift": 1, "contrast": 1}
    assert (line is None) == all(0 <= asked[key] <= most for key, most in limits.items()), line
    if line:
        return
    shape = data.draw(st.sampled_from([(3, 8, 8), (3, 1, 1), (3, 9, 8), (1, 8, 8), (8, 8), (3, 0, 0)]))
    dtype = data.draw(st.sampled_from([torch.uint8] * 4 + [torch.float32, torch.int64]))
    n, size = data.draw(st.integers(0, 5)), data.draw(st.integers(-1, 10))
    images = torch.randint(256, (n, *shape), generator=generator()).to(dtype)
    views, line = outcome(ValueError, augment, images, size, generator(3))
    usable = dtype == torch.uint8 and shape[0] == 3 and len(shape) == 3 and shape[1] == shape[2]
    assert (line is None) == (usable and 1 <= size <= shape[1]), line
    assert outcome(ValueError, centre_crop, images, size)[1] == line
    if line:
        return
    assert (views.dtype, views.shape) == (torch.uint8, (n, 3, size, size))
    assert centre_crop(images, size).shape == views.shape
    cut = data.draw(st.integers(0, n))
    parts = [augment(images[part], size, generator(3), part, n) for part in (slice(cut), slice(cut, n))]
    assert torch.equal(torch.cat(parts), views)
