"""StarCraft II itself, by way of oxwhirl's `smac`: `--env smac`."""
