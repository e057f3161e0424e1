"""Pictures as they come, sound and damaged, as uploads."""

import pytest
from corpus import broken, flipped, seen, sound

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of what is damaged


@pytest.mark.parametrize(
    "part", [slice(0, None, 4), pytest.param(slice(None), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_each_is_searched_by_what_pillow_shows_or_refused_in_one_line(client_of, made, catalog, refused, part):
    client = client_of(made / "catalog")
    for name, data in list((sound() | broken() | flipped(3)).items())[part]:
        answer = client.post("/api/search", content=data, params={"k": 3})
        if name in sound() or (name not in broken() and answer.status_code == 200):
            assert answer.status_code == 200, name
            found = [each["distance"] for each in answer.json()["hits"]]
            expected = [hit.distance for hit in catalog.search(seen(data), k=3)]
            assert found == pytest.approx(expected, abs=0.02), name
        elif answer.status_code != 200 or not name.startswith("cut-9-"):
            refused(answer, answer.status_code, "")
            assert answer.status_code in (400, 413, 415), name
    assert client.get("/api/health").status_code == 200
