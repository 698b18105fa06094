import importlib
import os
import warnings

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # flwr reads it when first imported
with warnings.catch_warnings():
    # flwr 1.41 pins typer below 0.21, which uses names that click 8.5 deprecates.
    warnings.filterwarnings("ignore", r"'click\.", DeprecationWarning)
    importlib.import_module("flwr.app")
