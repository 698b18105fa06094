"""`python -m flserver JOB.json`: run a campaign's server."""

import sys
import time

STARTED = time.monotonic()

from flcommon.eventlog import EventLog  # noqa: E402 - the clock starts before the imports
from flcommon.job import ServerJob  # noqa: E402
from flcommon.runner import leave, run_process  # noqa: E402
from flserver.refusals import refusals  # noqa: E402


def _work(job: ServerJob, log: EventLog) -> None:
    with refusals(log):
        # Imported here, so that a broken flwr or grpc is an event and not a bare traceback.
        from flserver.campaign import run_campaign  # noqa: PLC0415

        run_campaign(job, log, STARTED)


if __name__ == "__main__":
    leave(run_process("server", sys.argv[1:], ServerJob, _work))
