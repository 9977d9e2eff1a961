"""The buffer of refused requests: bounded whatever comes, and the sum of what its rows stand for is exact."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core import quarantine
from judgify_engine.core.quarantine import MAX_BODIES, MAX_BYTES, MAX_COUNTS, TENANT_BODIES, TENANT_BYTES, Buffer, Refused


def refused(tenant: str = "demo", workflow: str = "w", kind: str = "bad_json", body: bytes | None = b"{}") -> Refused:
    return Refused(
        id=bytes(16), tenant_id=tenant, workflow_id=workflow, kind=kind, source="http", code="malformed_json", field=None,
        reason="why", body=body, body_cut=False, created_at_us=0,
    )  # fmt: skip


def filled(*rows: Refused) -> Buffer:
    buffer = Buffer()
    for row in rows:
        buffer.add(row)
    return buffer


def test_few_are_kept_whole_in_their_order() -> None:
    rows = [refused(body=bytes([number])) for number in range(10)]
    buffer = filled(*rows)
    assert (buffer.rows, buffer.bytes) == (10, 10)
    assert buffer.take() == rows
    assert (buffer.rows, buffer.bytes, buffer.take()) == (0, 0, [])


def test_of_many_the_first_are_kept_and_the_rest_is_one_count() -> None:
    kept_and_count = filled(*(refused() for _ in range(5000))).take()
    assert [row.body for row in kept_and_count] == [b"{}"] * TENANT_BODIES + [None]
    assert kept_and_count[-1].repeated == 5000 - TENANT_BODIES
    assert (kept_and_count[-1].tenant_id, kept_and_count[-1].workflow_id, kept_and_count[-1].kind) == ("demo", "w", "bad_json")


def test_counts_are_apart_by_workflow_and_kind() -> None:
    buffer = filled(*(refused() for _ in range(TENANT_BODIES)))
    for _ in range(3):
        buffer.add(refused())
        buffer.add(refused(workflow="other"))
        buffer.add(refused(kind="wrong_type"))
    counts = {(row.workflow_id, row.kind): row.repeated for row in buffer.take() if row.body is None}
    assert counts == {("w", "bad_json"): 3, ("other", "bad_json"): 3, ("w", "wrong_type"): 3}


def test_a_loud_tenant_takes_no_room_from_another() -> None:
    rows = filled(*(refused("loud") for _ in range(5000)), refused("quiet")).take()
    assert [row.body for row in rows if row.tenant_id == "quiet"] == [b"{}"]


def test_a_tenant_has_room_for_so_many_bytes() -> None:
    body = b"x" * quarantine.BODY_BYTES
    rows = filled(*(refused(body=body) for _ in range(TENANT_BODIES))).take()
    assert sum(len(row.body or b"") for row in rows) <= TENANT_BYTES
    assert sum(row.repeated for row in rows) == TENANT_BODIES


def test_made_up_workflows_are_counted_together() -> None:
    rows = filled(*(refused(workflow=f"w{number}") for number in range(20_000))).take()
    assert len(rows) < 120
    (rest,) = [row for row in rows if row.workflow_id == ""]
    assert rest.tenant_id == "demo"
    assert sum(row.repeated for row in rows) == 20_000


def test_any_number_of_tenants_is_bounded() -> None:
    body = b"x" * 20_000
    buffer = filled(*(refused(f"t{number}", body=body) for number in range(20_000)))
    assert buffer.bytes <= MAX_BYTES
    rows = buffer.take()
    assert len(rows) <= MAX_BODIES + MAX_COUNTS + 1
    assert sum(row.repeated for row in rows) == 20_000
    assert sum(row.repeated for row in rows if row.tenant_id == "") > 0


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(["bad_json", "wrong_type"]), st.booleans()),
        max_size=300,
    )
)
def test_nothing_is_left_out_of_the_counts(came: list[tuple[str, str, str, bool]]) -> None:
    buffer, found = Buffer(), Counter[tuple[str, str, str]]()
    for number, (tenant, workflow, kind, has_body) in enumerate(came):
        buffer.add(refused(tenant, workflow, kind, b"{}" if has_body else None))
        if number % 100 == 99:
            for row in buffer.take():
                found[row.tenant_id, row.workflow_id, row.kind] += row.repeated
    for row in buffer.take():
        found[row.tenant_id, row.workflow_id, row.kind] += row.repeated
    assert found == Counter((tenant, workflow, kind) for tenant, workflow, kind, _ in came)
