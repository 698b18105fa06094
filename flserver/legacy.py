"""Watches the strategies of Flower's older API (`flwr.server.strategy`), in a Server or in a workflow.

They are Flower's to call from places that are not public: `ServerApp` without a `main` comes to `run_fl`, an app with
`SecAggPlusWorkflow` to `DefaultWorkflow`. Their test fails loudly on a release in which that is different.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import flwr.server.compat.app as server_engine
import flwr.server.workflow.default_workflows as workflow_engine
from flwr.server.client_proxy import ClientProxy
from flwr.server.workflow import DefaultWorkflow

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    Watch = Callable[[object, Mapping[str, str]], AbstractContextManager[None]]

PHASES = {
    "configure_fit": "configure",
    "configure_evaluate": "configure",
    "aggregate_fit": "aggregate",
    "aggregate_evaluate": "aggregate",
    "evaluate": "evaluate",
}
_PAIRED = 2


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Have every older strategy watched that runs inside; end the threads that an engine cut short leaves behind."""
    with ExitStack() as stack:
        stack.enter_context(replaced(server_engine, "run_fl", _serving(vars(server_engine)["run_fl"], watch)))
        call = DefaultWorkflow.__call__
        stack.enter_context(replaced(DefaultWorkflow, "__call__", _working(call, watch)))
        updaters: list[tuple[threading.Thread, threading.Event]] = []
        stack.callback(_end, updaters)
        for engine in (server_engine, workflow_engine):
            start = engine.start_update_client_manager_thread
            stack.enter_context(replaced(engine, "start_update_client_manager_thread", _noting(start, updaters)))
        yield


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Give a class or a module another attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def metrics(step: str, result: Any) -> Mapping[str, object] | None:  # noqa: ANN401 - old and new steps differ
    """Return the metrics in what a step returned: a MetricRecord, or paired with arrays or (older) with a loss."""
    if not isinstance(result, tuple):
        return result  # type: ignore[no-any-return]
    if len(result) != _PAIRED:
        return None
    first, found = result
    scored = step in {"evaluate", "aggregate_evaluate"} and first is not None
    return {**({"loss": first} if scored else {}), **(found or {})}


def reason(failure: object, names: Mapping[int, str]) -> str:
    """Return what an entry of `failures` says: an exception, or a client and its answer that is not OK."""
    if isinstance(failure, tuple) and len(failure) == _PAIRED and isinstance(failure[0], ClientProxy):
        cid, status = failure[0].cid, getattr(failure[1], "status", None)
        client = names.get(int(cid), cid) if cid.isdecimal() else cid
        return f"{client}: {getattr(status, 'message', failure[1])}"
    told = failure.args[0] if isinstance(failure, Exception) and failure.args else failure
    return str(getattr(told, "reason", told))


def _serving(run_fl: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    @functools.wraps(run_fl)
    def run(server: Any, config: Any) -> Any:  # noqa: ANN401 - passes on what it gets
        with watch(server.strategy, PHASES):
            return run_fl(server, config)

    return run


def _working(call: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    @functools.wraps(call)
    def work(self: DefaultWorkflow, grid: Any, context: Any) -> Any:  # noqa: ANN401 - passes on what it gets
        with watch(context.strategy, PHASES):
            return call(self, grid, context)

    return work


def _noting(
    start: Callable[..., Any], updaters: list[tuple[threading.Thread, threading.Event]]
) -> Callable[..., tuple[threading.Thread, threading.Event, threading.Event]]:
    @functools.wraps(start)
    def started(*args: Any, **rest: Any) -> tuple[threading.Thread, threading.Event, threading.Event]:  # noqa: ANN401
        thread, stop, done = start(*args, **rest)
        updaters.append((thread, stop))
        return thread, stop, done

    return started


def _end(updaters: list[tuple[threading.Thread, threading.Event]]) -> None:
    """End the threads that look for clients every five seconds: an engine that is cut short leaves its own running."""
    for thread, stop in updaters:
        stop.set()
        thread.join()
