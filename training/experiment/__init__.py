"""Many runs from one file: `python -m training.experiment experiments/paper.yaml`."""
