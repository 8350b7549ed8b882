"""Recordings of StarCraft II, and Skirmish beside them: docs/recording.md."""
