"""The server's side of an experiment: runs a Flower ServerApp, trial after trial, over one gRPC stream per client."""
