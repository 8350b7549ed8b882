"""What runs have shown, in one page: `python -m training.report runs/paper --out report`."""
