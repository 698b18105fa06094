"""Where each client's clock stands against the server's, how sure that is, and what was injected meanwhile."""
