"""The gRPC doors."""
