"""Watches the strategies of Flower's older API (`flwr.server.strategy`), in a Server or in a workflow.

Nobody new joins a campaign that runs, so that a strategy which waits for more would wait for a day: an error.
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

    from flwr.server import ClientManager

    Watch = Callable[[object, Mapping[str, str]], AbstractContextManager[None]]
    Wait = Callable[[], None]
    Updater = tuple[threading.Thread, threading.Event, threading.Event]

PHASES = {
    "configure_fit": "configure",
    "configure_evaluate": "configure",
    "aggregate_fit": "aggregate",
    "aggregate_evaluate": "aggregate",
    "evaluate": "evaluate",
}
_PAIRED = 2


@contextmanager
def watching(watch: Watch, wait: Wait) -> Iterator[None]:
    """Have every older strategy watched that runs inside; end the threads that an engine cut short leaves behind.

    `wait` is called, time and again, while a strategy waits for more clients than there are; it may raise.
    """
    with ExitStack() as stack:
        stack.enter_context(replaced(server_engine, "run_fl", _serving(vars(server_engine)["run_fl"], watch)))
        call = DefaultWorkflow.__call__
        stack.enter_context(replaced(DefaultWorkflow, "__call__", _working(call, watch)))
        updaters: list[Updater] = []
        stack.callback(_end, updaters)
        for engine in (server_engine, workflow_engine):
            start = engine.start_update_client_manager_thread
            stack.enter_context(replaced(engine, "start_update_client_manager_thread", _noting(start, updaters, wait)))
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


def put_in_order(results: object) -> None:
    """Sort the results of a round by client: a Server collects them from a set, and sums of floats depend on order."""
    if isinstance(results, list) and all(_is_result(one) and one[0].cid.isdecimal() for one in results):
        results.sort(key=lambda one: int(one[0].cid))


def _is_result(one: object) -> bool:
    return isinstance(one, tuple) and len(one) == _PAIRED and isinstance(one[0], ClientProxy)


def reason(failure: object, names: Mapping[int, str]) -> str:
    """Return what an entry of `failures` says: an exception, or a client and its answer that is not OK."""
    if isinstance(failure, tuple) and _is_result(failure):
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


def _noting(start: Callable[..., Updater], updaters: list[Updater], wait: Wait) -> Callable[..., Updater]:
    @functools.wraps(start)
    def started(grid: Any, client_manager: ClientManager) -> Updater:  # noqa: ANN401 - passes on what it gets
        updaters.append(start(grid, client_manager))
        updaters[-1][-1].wait()  # from then on, whoever asks for clients is told of all that the grid has
        _make_impatient(client_manager, wait)
        return updaters[-1]

    return started


def _make_impatient(client_manager: ClientManager, wait: Wait) -> None:
    waiting = client_manager.wait_for

    def wait_for(num_clients: int, *args: Any, **rest: Any) -> bool:  # noqa: ANN401 - passes on what it gets
        while client_manager.num_available() < num_clients:
            wait()
        return waiting(num_clients, *args, **rest)

    vars(client_manager)["wait_for"] = wait_for


def _end(updaters: list[Updater]) -> None:
    """End the threads that look for clients every five seconds: an engine that is cut short leaves its own running."""
    for thread, stop, _ in updaters:
        stop.set()
        thread.join()
