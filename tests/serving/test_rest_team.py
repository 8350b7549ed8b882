"""`POST /act`: many rows in one request, each as it would be alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from serving.rest.api import PROBLEM_JSON
from tests.serving.running import RunningServer

SECRET = "XYZZY"
Row = dict[str, Any]


def some_rows(n: int, seed: int = 0) -> list[Row]:
    """First steps and later ones by turns."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for place in range(n):
        mask = random.random(5) < 0.6
        mask[place % 5] = True
        rows.append(
            {
                "agent_id": place % 3,
                "obs": random.uniform(-1, 1, 7).tolist(),
                "avail_actions": mask.tolist(),
            }
        )
        if place % 2:
            memory = random.uniform(-1, 1, 6).tolist()
            rows[-1] |= {"hidden": memory, "last_action": place % 5}
    return rows


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM_JSON
    assert SECRET not in response.text
    content: dict[str, Any] = response.json()
    return content


@pytest.fixture
def strict(strict_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=strict_server.rest, trust_env=False) as client:
        yield client


def test_every_row_is_answered_as_it_would_be_alone(http: httpx.Client) -> None:
    rows = some_rows(64)
    answer = http.post("/act", json={"rows": rows, "want": ["q_values"]}).json()
    assert (answer["model"], answer["version"]) == ("tiny", 1)
    assert len({row["action"] for row in answer["rows"]}) == 5
    for row, found in zip(rows, answer["rows"], strict=True):
        body = {name: value for name, value in row.items() if name != "agent_id"}
        path = f"/agents/{row['agent_id']}/act"
        alone = http.post(path, json=body | {"want": ["q_values"]}).json()
        # JSON numbers that are equal are the same float32.
        assert found == {name: alone[name] for name in ("action", "next_hidden", "q_values")}


def test_q_values_come_only_if_asked_for_and_a_version_can_be_insisted_on(
    http: httpx.Client,
) -> None:
    body = {"rows": some_rows(2), "model": "tiny", "version": 1}
    (first, _) = http.post("/act", json=body).json()["rows"]
    assert set(first) == {"action", "next_hidden"}
    problem(http.post("/act", json=body | {"version": 2}), 404)


@pytest.mark.parametrize(
    ("change", "status", "field", "words"),
    [
        ({"obs": [0.0] * 6}, 422, "rows[2].obs", "rows[2]: obs has 6 values; tiny version 1"),
        ({"obs": [0.0] * 6 + [1e7]}, 422, "rows[2].obs", "rows[2]: obs[6] is not a number"),
        ({"obs": [0.0] * 6 + [1e39]}, 422, "rows[2].obs", "rows[2]: obs has a number too large"),
        ({"obs": [0.0, SECRET]}, 422, "rows[2].obs[1]", "float"),
        ({"avail_actions": [0] * 5}, 422, "rows[2].avail_actions", "no action to take"),
        ({"avail_actions": [7] * 5}, 422, "rows[2].avail_actions", "other than 0 and 1"),
        ({"hidden": [0.0] * 6}, 422, "rows[2].last_action", "rows[2]: last_action is needed"),
        ({"hidden": [], "last_action": 0}, 422, "rows[2].hidden", "hidden is empty"),
        ({"last_action": 5}, 422, "rows[2].last_action", "rows[2]: last_action must be"),
        ({"agent_id": 3}, 404, None, "rows[2]: tiny version 1 has agents 0 to 2"),
        ({"agent_id": -1}, 404, None, "rows[2]: tiny version 1 has agents 0 to 2"),
        ({"session": SECRET}, 422, "", "a field that this request does not have"),
    ],
)
def test_a_fault_names_the_row(
    http: httpx.Client, change: Row, status: int, field: str | None, words: str
) -> None:
    rows = some_rows(4)
    rows[2] |= change
    content = problem(http.post("/act", json={"rows": rows}), status)
    faults = [fault["field"] for fault in content.get("errors", [])]
    assert faults == ([] if field is None else [field])
    assert words in content["detail"]


def test_the_place_of_what_is_not_finite_is_found(http: httpx.Client) -> None:
    rows = some_rows(4)
    rows[1]["hidden"][5] = "here"
    body = json.dumps({"rows": rows}).replace('"here"', "NaN").encode()
    content = problem(http.post("/act", content=body), 422)
    assert content["errors"][0]["field"] == "rows[1].hidden"
    assert content["detail"] == "rows[1]: hidden[5] is not a finite number"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b'{"rows": [', 400),
        (b'{"rows": [{"obs": NaN', 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"rows": []}', 422),
        (b'{"rows": 5}', 422),
        (b'{"rows": [5]}', 422),
        (b'{"rows": [{}]}', 422),
    ],
)
def test_what_is_no_such_request_is_the_callers_error(
    http: httpx.Client, body: bytes, status: int
) -> None:
    problem(http.post("/act", content=body), status)


def test_too_many_rows_are_a_413_that_says_the_limit(http: httpx.Client) -> None:
    (row,) = some_rows(1)
    assert len(http.post("/act", json={"rows": [row] * 512}).json()["rows"]) == 512
    content = problem(http.post("/act", json={"rows": [row] * 513}), 413)
    assert content["type"] == "urn:unmix:problem:request-too-large"
    assert content["detail"] == "there are 513 rows; one message takes at most 512"


def test_a_body_over_the_limit_is_a_413(strict: httpx.Client) -> None:
    content = problem(strict.post("/act", json={"rows": some_rows(20), "model": "tiny"}), 413)
    assert content["detail"] == "the body is over 2048 bytes"


def test_it_is_documented(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    step = schema["paths"]["/act"]["post"]
    assert {"200", "413", "422", "429"} <= set(step["responses"])
    for name in ("TeamRequest", "TeamRow"):
        fields = schema["components"]["schemas"][name]["properties"]
        assert all("description" in field for field in fields.values())


def test_the_path_takes_nothing_but_posts(http: httpx.Client) -> None:
    problem(http.get("/act"), 405)
