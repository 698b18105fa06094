"""Python on the hosts: the environment that a campaign needs, locked here, made there, shared by all runs."""

from deploy.environment.kit import Kit
from deploy.environment.prepare import prepare_python

__all__ = ["Kit", "prepare_python"]
