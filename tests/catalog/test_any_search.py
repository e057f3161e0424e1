"""Anything asked of a catalogue: so many hits, in order, or one line that says what is wrong."""

import math

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import examples
from support import outcome

from nearkin.errors import InputError

SIDE = 32


def test_any_search_is_answered_or_refused_in_one_line(catalog, photos):
    paths = sorted(str(path) for path in photos.rglob("*.png"))
    images = [Image.open(path).convert("RGB") for path in paths[:3]]

    @examples(150)
    @given(data=st.data())
    def search(data):
        query = data.draw(st.sampled_from([paths[0], images[1], images, [], [paths[3], images[0]]]))
        k = data.draw(st.one_of(st.integers(-2, 40), st.just(10**12)))
        label = data.draw(st.one_of(st.none(), st.sampled_from(["class-00", "", "' OR 1=1 --"]), st.text()))
        corner, length = st.integers(-1, SIDE), st.integers(-1, SIDE + 1)
        crop = data.draw(st.one_of(st.none(), st.just((0, 0, SIDE, SIDE)), st.tuples(corner, corner, length, length)))
        rate = data.draw(st.one_of(st.sampled_from([0.05, 0.5, 1e-9]), st.floats()))
        answer, line = outcome(InputError, catalog.search, query, k=k, label=label, crop=crop, false_matches=rate)

        possible = query != [] and k >= 1 and 0 < rate < 1
        if crop is not None:
            x, y, width, height = crop
            possible &= min(x, y) >= 0 < min(width, height) and max(x + width, y + height) <= SIDE
        if label is not None:
            possible &= not any("\ud800" <= each <= "\udfff" for each in label)
        assert (line is None) == possible, line
        if line:
            return
        assert len(answer) == min(k, {None: 30, "class-00": 6}.get(label, 0))
        distances = [hit.distance for hit in answer]
        assert distances == sorted(distances)
        assert all(math.isfinite(each) and each >= 0 for each in distances)
        assert label is None or {hit.label for hit in answer} <= {label}
        assert all(hit.match == (hit.distance <= answer.threshold) for hit in answer)

    search()
