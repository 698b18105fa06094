"""Where each round's time went: its critical path, each client's share, and what if something had been otherwise."""
