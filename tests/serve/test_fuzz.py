"""Requests made at random from the server's own description of itself."""

from collections import Counter
from contextlib import suppress

import pytest

from nearkin.catalog.store import id_of

pytestmark = pytest.mark.slow

EXAMPLES = 40
"""Of each operation, of each kind."""


@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])  # as described, and not
def test_no_request_makes_the_server_fail(served, photos, kind):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{served.address}api/openapi.json")
    mode = schemathesis.GenerationMode[kind]
    bounds = settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    statuses = Counter()

    def call(case):
        statuses[case.call_and_validate(checks=[not_a_server_error]).status_code] += 1

    there = {"id": id_of(str(photos[0]))}  # by chance, none of the catalogue would ever be asked for
    for found in schema.get_all_operations():
        operation = found.ok()
        for parts in ({}, {"path_parameters": there}) if "{id}" in operation.path else ({},):
            with suppress(Unsatisfiable):  # nothing is left to be wrong
                bounds(given(operation.as_strategy(mode, **parts))(call))()
    print(f"{kind}: {dict(statuses)}")
    assert max(statuses) < 500
    assert statuses[200]
    assert sum(statuses.values()) > 5 * EXAMPLES
    assert "Traceback" not in served.log.read_text()
