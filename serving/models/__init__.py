"""Artifacts: checked, loaded, run; versions that come and go."""
