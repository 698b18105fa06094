"""Where hosts come from when the inventory does not list them."""
