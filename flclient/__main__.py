"""`python -m flclient JOB.json`: run one client of a campaign."""

import sys
import time

STARTED = time.monotonic()

from flcommon.eventlog import EventLog  # noqa: E402 - the clock starts before the imports
from flcommon.job import ClientJob  # noqa: E402
from flcommon.runner import leave, run_process  # noqa: E402


def _work(job: ClientJob, log: EventLog) -> None:
    # Imported here, so that a broken flwr or grpc is an event and not a bare traceback.
    from flclient.session import run_client  # noqa: PLC0415

    run_client(job, log, STARTED)


if __name__ == "__main__":
    leave(run_process("client", sys.argv[1:], ClientJob, _work))
