"""Generated from `proto/` and committed; never edited by hand (`make proto` writes it again)."""
