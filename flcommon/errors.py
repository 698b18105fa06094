"""The root of every error that the toolkit raises on purpose.

    FieldlabError
    ├── deploy.errors …      what the controller tells its user (inventory, playbook, hosts, steps)
    ├── flcommon.job.JobError
    └── flserver, flclient … what a process on a host tells its log

Anything else that reaches a user is a bug.
"""


class FieldlabError(Exception):
    """Something a user can understand and act on; `str()` is one clear message."""
