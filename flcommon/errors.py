"""The root of every error that the toolkit raises on purpose.

    FieldlabError
    ├── deploy.errors …             what the controller tells its user (inventory, playbook, hosts, steps)
    ├── flcommon.job.JobError       a job file that cannot be run
    ├── flcommon.flower.AppError    a Flower app that cannot be loaded
    ├── flcommon.flower.MessageError  bytes that are no Flower message, or one that cannot be encoded
    ├── flclient.link.errors …      a link that a host cannot shape
    └── StepError                   what ends a process on a host: at which step, and why
        ├── flserver.errors …
        └── flclient.connection.ConnectionFailed

Anything else that reaches a user is a bug.
"""


class FieldlabError(Exception):
    """Something a user can understand and act on; `str()` is one clear message."""


class StepError(FieldlabError):
    """A process on a host cannot go on; becomes its `failed` event."""

    def __init__(self, step: str, reason: str) -> None:
        self.step, self.reason = step, reason
        super().__init__(f"{step}: {reason}")
