"""Steps as octets: the same answers and refusals as JSON's, in the layout that is documented."""

from __future__ import annotations

import struct
from typing import Any

import httpx
import numpy as np
import pytest

from serving.rest.api import PROBLEM_JSON
from tests.serving.test_rest_team import some_rows

OCTETS = {"content-type": "application/octet-stream"}
NAN = b"\0\0\xc0\x7f"


def packed(rows: list[dict[str, Any]], one: bool = False, **head: Any) -> bytes:
    """The message by the documented layout, written out a second time."""
    memory = any("hidden" in row for row in rows)
    sizes = {"n": len(rows), "obs": 28, "mask": 5, "hidden": 24 if memory else 0, "version": 0,
             "want": 1, "name": b""} | head  # fmt: skip
    name = sizes["name"]
    numbers = [] if one else [row["agent_id"] for row in rows]
    numbers += [row.get("last_action", -2) for row in rows]
    return b"".join(
        [
            b"UMX1",
            *(struct.pack("<I", sizes[key]) for key in ("n", "obs", "mask", "hidden")),
            struct.pack("<III", sizes["version"], sizes["want"], len(name)),
            name,
            np.array(numbers, "<i4").tobytes(),
            *(np.array(row["obs"], "<f4").tobytes() for row in rows),
            *(bytes(row["avail_actions"]) for row in rows),
            *(np.array(row.get("hidden", [0] * 6), "<f4").tobytes() for row in rows if memory),
        ]
    )


def unpacked(answer: bytes) -> dict[str, Any]:
    """The answer as JSON would have had it."""
    magic, n, hidden, q, version, name = struct.unpack_from("<4s5I", answer)
    assert (magic, hidden, q) == (b"UMX1", 24, 20)
    assert len(answer) == 24 + name + n * (4 + 24 + 20)
    model, numbers = answer[24 : 24 + name], answer[24 + name :]
    actions = np.frombuffer(numbers, "<i4", n)
    memories = np.frombuffer(numbers, "<f4", 6 * n, 4 * n).reshape(n, 6)
    q_values = np.frombuffer(numbers, "<f4", 5 * n, 28 * n).reshape(n, 5)
    rows = [
        {"action": int(action), "next_hidden": memory.tolist(), "q_values": values.tolist()}
        for action, memory, values in zip(actions, memories, q_values, strict=True)
    ]
    return {"model": model.decode(), "version": version, "rows": rows}


def as_float32(answer: dict[str, Any]) -> dict[str, Any]:
    rows = [
        row | {key: np.array(row[key], "f4").tolist() for key in ("next_hidden", "q_values")}
        for row in answer["rows"]
    ]
    return answer | {"rows": rows}


def test_many_rows_are_answered_as_in_json(http: httpx.Client) -> None:
    rows = some_rows(7)
    spoken = http.post("/act", json={"rows": rows, "want": ["q_values"]}).json()
    response = http.post("/act", content=packed(rows), headers=OCTETS)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    assert unpacked(response.content) == as_float32(spoken)


@pytest.mark.parametrize("place", [0, 1])
def test_one_row_is_answered_as_in_json(http: httpx.Client, place: int) -> None:
    row = some_rows(2)[place]
    agent = row.pop("agent_id")
    spoken = http.post(f"/agents/{agent}/act", json=row | {"want": ["q_values"]}).json()
    row["last_action"] = row.get("last_action", -1)
    body = packed([row], one=True, name=b"tiny", version=1)
    answer = unpacked(http.post(f"/agents/{agent}/act", content=body, headers=OCTETS).content)
    assert (answer["model"], answer["version"]) == (spoken.pop("model"), spoken.pop("version"))
    assert answer["rows"] == as_float32({"rows": [spoken]})["rows"]
    short = http.post(f"/agents/{agent}/act", content=packed([row], True, want=0), headers=OCTETS)
    assert len(short.content) == 24 + len("tiny") + 4 + 24


ROWS = some_rows(2)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "the body does not begin with the 32 bytes of a UMX1 head"),
        (b"{}" * 40, 400, "the body does not begin with the 32 bytes of a UMX1 head"),
        (packed(ROWS)[:-1], 400, "the head tells of 162 bytes; there are 161"),
        (packed(ROWS) + b"\0", 400, "the head tells of 162 bytes; there are 163"),
        (packed(ROWS, n=2**32 - 1), 413, "there are 4294967295 rows"),
        (packed([]), 422, "there are no rows"),
        (packed(ROWS, want=2), 422, "want must be 0 or 1"),
        (packed(ROWS, version=2**31), 422, "version must be a whole number"),
        (packed(ROWS, version=9), 404, "tiny has no version"),
        (packed(ROWS, name=b"\xff"), 422, "model is not UTF-8"),
        (packed(ROWS, name=b"XYZZY"), 404, "no model of that name"),
        (packed(ROWS, obs=27, mask=6), 422, "rows[0]: obs has 6.75 values; tiny"),
        (packed([ROWS[0], ROWS[1] | {"agent_id": -1}]), 404, "rows[1]: tiny version 1 has agents"),
        (packed([ROWS[0], ROWS[1] | {"last_action": 5}]), 422, "rows[1]: last_action must be -1"),
        (packed([ROWS[0], ROWS[1] | {"last_action": -2}]), 422, "rows[1]: last_action is needed"),
        (packed([ROWS[0] | {"avail_actions": [2] * 5}, ROWS[1]]), 422, "rows[0]: avail_actions"),
        (packed(ROWS)[:-4] + NAN, 422, "rows[1]: hidden[5] is not"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_problem(
    http: httpx.Client, body: bytes, status: int, words: str
) -> None:
    response = http.post("/act", content=body, headers=OCTETS)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM_JSON
    assert words in response.json()["detail"]
    assert "XYZZY" not in response.text


def test_one_agent_takes_one_row(http: httpx.Client) -> None:
    body = packed(ROWS, one=True)
    refused = http.post("/agents/0/act", content=body, headers=OCTETS)
    assert refused.status_code == 422
    assert refused.json()["detail"] == "there are 2 rows; one is stepped here"
    body = packed([ROWS[0] | {"last_action": -1}], one=True)
    assert http.post("/agents/3/act", content=body, headers=OCTETS).status_code == 404


def test_the_layout_is_in_the_documentation(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for path in ("/act", "/agents/{agent_id}/act"):
        step = paths[path]["post"]
        assert "UMX1" in step["description"]
        for content in (step["requestBody"]["content"], step["responses"]["200"]["content"]):
            assert set(content) == {"application/json", "application/octet-stream"}
