"""Nothing that the app needs."""
