"""A small CNN trained by federated averaging on CIFAR-10, or on handwritten digits where nothing may be downloaded.

`client_app:app` and `server_app:app` are its Flower halves, `task` is the learning, `data` and `partition` are what it
learns from, `settings` lists the run_config keys with their defaults.
"""
