"""StarCraft II's API with Skirmish behind it: docs/sc2-api.md."""
