"""What every process of an experiment shares: job, events, delay, frames, detached processes.

Imports the standard library, numpy and msgspec only (kept by a test); `flcommon.flower` alone also touches flwr,
`flcommon.credentials` alone cryptography.
"""
